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

{{/* Fails for values that only together are wrong. */}}
{{- define "check" -}}
{{- if and (include "isSeveral" .) (ne .Values.state.kind "redis") -}}
{{- fail "more than one pod needs state.kind=redis: an SQLite file belongs to one process" -}}
{{- end -}}
{{- if and (eq .Values.state.kind "redis") (not .Values.state.redis.secretName) -}}
{{- fail "state.redis.secretName is missing: the Secret with the URL of the Redis" -}}
{{- end -}}
{{- if and .Values.tls.clientCa (not .Values.tls.secretName) -}}
{{- fail "tls.clientCa needs tls.secretName: without TLS no client shows a certificate" -}}
{{- end -}}
{{- if and .Values.secret.create (not .Values.secret.data) -}}
{{- fail "secret.create needs secret.data" -}}
{{- end -}}
{{- end -}}

{{- define "probe" -}}
{{- if .Values.tls.secretName -}}
httpGet:
  path: /livez
  port: admin
{{- else -}}
grpc:
  port: 50051
{{- end -}}
{{- end -}}
