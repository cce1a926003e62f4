{{/* The name of all objects: the release's, if it contains the chart's. */}}
{{- define "name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "secretName" -}}
{{ .Values.secret.name | default (include "name" .) }}
{{- end -}}

{{- define "serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "isSeveral" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}yes{{- end -}}
{{- end -}}

{{/* The names of the variables in `env`, each on a line. */}}
{{- define "variables" -}}
{{- range .Values.env }}
{{ .name }}={{ .value }}
{{- end }}
{{- end -}}

{{/* Whether no caller proves its identity. Not fromToml: Helm 3 lacks it before 3.17. */}}
{{- define "servesAnyone" -}}
{{- if or (regexMatch `(?m)^\s*["']?callers["']?\s*=\s*["']anyone["']` .Values.settings) (regexMatch `(?mi)^WECHAT_STORE_GATEWAY__CALLERS=` (include "variables" .)) -}}yes{{- end -}}
{{- end -}}

{{/* Whether the settings encrypt a port beside the chart. */}}
{{- define "hasOwnTls" -}}
{{- if or (regexMatch `(?m)^\s*\[\s*listen\s*\.\s*(admin_)?tls\s*\]` .Values.settings) (regexMatch `(?m)^\s*(listen\s*\.\s*)?(admin_)?tls(\s*\.\s*\w+)?\s*=` .Values.settings) (regexMatch `(?mi)^WECHAT_STORE_GATEWAY__LISTEN__(ADMIN_)?TLS__` (include "variables" .)) -}}yes{{- end -}}
{{- end -}}

{{/* The part of the settings that follows from `tls`. It is read at the start of the process. */}}
{{- define "listen" -}}
{{- if .Values.tls.secretName -}}
[listen.tls]
certificate = "/run/secrets/tls/tls.crt"
key = "/run/secrets/tls/tls.key"
{{- if .Values.tls.clientCa }}
client_ca = "/run/secrets/tls/ca.crt"
{{- end }}
{{- if .Values.tls.admin }}
[listen.admin_tls]
certificate = "/run/secrets/tls/tls.crt"
key = "/run/secrets/tls/tls.key"
{{- end }}
{{- end -}}
{{- end -}}

{{/* Fails for values that only together are wrong. */}}
{{- define "check" -}}
{{- if and (include "isSeveral" .) (ne .Values.state.kind "redis") -}}
{{- fail "more than one pod needs state.kind=redis: an SQLite file belongs to one process" -}}
{{- end -}}
{{- if and (eq .Values.state.kind "redis") (not .Values.state.redis.secretName) -}}
{{- fail "state.redis.secretName is missing: the Secret with the URL of the Redis" -}}
{{- end -}}
{{- if and (eq .Values.state.kind "redis") (not .Values.state.redis.keys) -}}
{{- fail "state.redis.keys is empty: name the files of the mounted Secret with the keys of the state" -}}
{{- end -}}
{{- if and .Values.tls.clientCa (not .Values.tls.secretName) -}}
{{- fail "tls.clientCa needs tls.secretName: without TLS no client shows a certificate" -}}
{{- end -}}
{{- if and .Values.tls.admin (not .Values.tls.secretName) -}}
{{- fail "tls.admin needs tls.secretName: the Secret with the certificate" -}}
{{- end -}}
{{- if include "hasOwnTls" . -}}
{{- fail "the settings have TLS of their own, which the probes and the Service do not know: set tls.secretName and tls.admin instead of listen.tls and listen.admin_tls" -}}
{{- end -}}
{{- if include "servesAnyone" . -}}
{{- if not .Values.networkPolicy.enabled -}}
{{- fail "callers = \"anyone\" needs networkPolicy.enabled=true: otherwise every pod of the cluster may do everything. Or name each program in [[callers]]" -}}
{{- end -}}
{{- if ne .Values.service.type "ClusterIP" -}}
{{- fail (printf "callers = \"anyone\" needs service.type=ClusterIP: a %s lets everyone who reaches it do everything. Name each program in [[callers]]" .Values.service.type) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.secret.create (not .Values.secret.data) -}}
{{- fail "secret.create needs secret.data" -}}
{{- end -}}
{{- end -}}

{{/* The value of state.keys. */}}
{{- define "stateKeys" -}}
{{- $keys := list -}}
{{- range .Values.state.redis.keys -}}
{{- $keys = append $keys (printf "{ file = \"/run/secrets/wechat/%s\" }" .) -}}
{{- end -}}
[{{ join ", " $keys }}]
{{- end -}}

{{- define "livez" -}}
httpGet:
  path: /livez
  port: admin
  {{- if .Values.tls.admin }}
  # The kubelet does not check the certificate.
  scheme: HTTPS
  {{- end }}
{{- end -}}

{{- define "probe" -}}
{{- if .Values.tls.secretName -}}
{{ include "livez" . }}
{{- else -}}
grpc:
  port: 50051
{{- end -}}
{{- end -}}
