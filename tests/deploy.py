"""Checks the files in deploy/ beside each other, and the Helm chart.

    tests/deploy.py GATEWAY HELM OUT

HELM may be empty: then the chart is not rendered. It writes the rendered objects into the folder OUT.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
CHART = DEPLOY / "helm" / "wechat-store-gateway"
# Labels that only Helm sets.
HELM_LABELS = ("app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart")
# Values that the chart must refuse, with a part of the error.
WRONG_VALUES = {
    "replicas=2": "an SQLite file belongs to one process",
    "state.kind=redis": "state.redis.secretName is missing",
    "state.kind=redis,state.redis.secretName=x,state.redis.keys=null": "state.redis.keys is empty",
    "secret.create=true": "secret.create needs secret.data",
    "tls.clientCa=true": "tls.clientCa needs tls.secretName",
    "tls.admin=true": "tls.admin needs tls.secretName",
    # The default settings have callers = "anyone".
    "networkPolicy.enabled=false": 'callers = "anyone" needs networkPolicy.enabled=true',
    "service.type=LoadBalancer": 'callers = "anyone" needs service.type=ClusterIP',
    "service.type=NodePort": 'callers = "anyone" needs service.type=ClusterIP',
    "env[0].name=WECHAT_STORE_GATEWAY__CALLERS,env[0].value=anyone,settings=a = 1,networkPolicy.enabled=false": "networkPolicy.enabled=true",
    "settings=[listen.admin_tls]": "set tls.secretName and tls.admin",
    "settings=[listen.tls]": "set tls.secretName and tls.admin",
    "settings=listen.admin_tls.key = 'a'": "set tls.secretName and tls.admin",
    "env[0].name=WECHAT_STORE_GATEWAY__LISTEN__ADMIN_TLS__KEY,env[0].value=a": "set tls.secretName and tls.admin",
    "image.tags=1": "additional properties 'tags' not allowed",
    "state.kind=pg": "must be one of 'sqlite', 'redis'",
    "image.digest=sha256:1": "does not match pattern",
    "drainSeconds=x": "got string, want integer",
}


def load(path):
    return yaml.safe_load(Path(path).read_text())


def check_compose():
    """Every file and folder that compose.yaml mounts is there, and each name has an owner."""
    compose = load(DEPLOY / "compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source} is not there"
            else:
                assert source in compose["volumes"], f"{name}: {source} is no volume"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port} is open to other hosts"
        assert service["read_only"] and service["cap_drop"] == ["ALL"], f"{name} is not hardened"
        tag = service["image"].rpartition("@")[0] or service["image"]
        assert name in ("gateway", "simulator") or ":" in tag.rpartition("/")[2], f"{name} has no tag"
    check_addresses(services)
    check_collector(services)
    print(f"compose.yaml: {len(services)} services")


def check_addresses(services):
    """The addresses of other services name services of compose.yaml."""
    provisioning = DEPLOY / "grafana" / "provisioning"
    urls = [source["url"] for source in load(provisioning / "datasources" / "all.yaml")["datasources"]]
    urls += [f"http://{target}" for scrape in load(DEPLOY / "prometheus" / "prometheus.yaml")["scrape_configs"]
             for static in scrape["static_configs"] for target in static["targets"]]
    settings = tomllib.loads((DEPLOY / "settings.toml").read_text())
    urls += [settings["state"]["url"], *settings["wechat"]["hosts"]]
    urls += [services["gateway"]["environment"]["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]]
    urls += [f"http://{load(DEPLOY / 'collector.yaml')['exporters']['otlp/jaeger']['endpoint']}"]
    for url in urls:
        host = url.partition("://")[2].partition(":")[0]
        assert host in services, f"{url} is no service of compose.yaml"
    mounts = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    for provider in load(provisioning / "dashboards" / "all.yaml")["providers"]:
        assert provider["options"]["path"] in mounts, f"{provider['options']['path']} is not mounted"


def check_collector(services):
    """Each pipeline of the collector uses what the file defines, and all that it defines."""
    collector = load(DEPLOY / "collector.yaml")
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in collector["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == set(collector[kind]), f"{kind}: {used} used, {set(collector[kind])} defined"


def render(helm, *options):
    """Returns the objects of the chart by kind and name."""
    command = [helm, "template", "wechat-store-gateway", str(CHART), *options]
    rendered = subprocess.run(command, capture_output=True, text=True)
    assert rendered.returncode == 0, rendered.stderr
    return rendered.stdout


def objects(text):
    """Returns the objects without Helm's own labels, by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): plain(one) for one in yaml.safe_load_all(text) if one}


def plain(value):
    """Removes what only the chart has: Helm's labels and annotations, and empty maps."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, one in value.items():
        if key in HELM_LABELS or key == "helm.sh/resource-policy":
            continue
        if key == "settings.toml":
            result[key] = tomllib.loads(one)
            continue
        one = plain(one)
        # An empty map of labels says nothing. An empty selector selects everything.
        if one == {} and key in ("labels", "annotations"):
            continue
        result[key] = one
    # The pod's labels need the name only, and so do the objects'.
    labels = result.get("labels")
    if labels and set(labels) == {"app.kubernetes.io/name"} and "selector" not in result:
        del result["labels"]
    return result


def check_kubernetes(helm):
    """kubernetes.yaml has the objects that the chart renders by default, and the chart the version of the program."""
    version = tomllib.loads((DEPLOY.parent / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    chart = load(CHART / "Chart.yaml")
    assert chart["version"] == chart["appVersion"] == version, f"Chart.yaml does not have the version {version}"
    ours, rendered = objects((DEPLOY / "kubernetes.yaml").read_text()), objects(render(helm))
    assert set(ours) == set(rendered), f"only one has {set(ours) ^ set(rendered)}"
    check_selectors((DEPLOY / "kubernetes.yaml").read_text())
    for key, one in ours.items():
        differences = list(differing(one, rendered[key], "/".join(key)))
        assert not differences, "\n".join(differences)
    print(f"kubernetes.yaml: the {len(ours)} objects of the chart")


def check_selectors(text):
    """Whatever selects pods selects those of the deployment."""
    found = [one for one in yaml.safe_load_all(text) if one]
    pod = next(one for one in found if one["kind"] == "Deployment")["spec"]["template"]["metadata"]["labels"]
    for one in found:
        if one["kind"] not in ("Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"):
            continue
        selector = one["spec"].get("selector") or one["spec"].get("podSelector") or {}
        selector = selector.get("matchLabels", selector)
        assert selector and selector.items() <= pod.items(), one


def differing(ours, rendered, place):
    """Yields each place where two objects differ."""
    if isinstance(ours, dict) and isinstance(rendered, dict):
        for key in sorted(set(ours) | set(rendered)):
            yield from differing(ours.get(key), rendered.get(key), f"{place}.{key}")
    elif ours != rendered:
        yield f"{place}: kubernetes.yaml has {json.dumps(ours)}, the chart {json.dumps(rendered)}"


def check_pod(gateway, name, rendered):
    """The pod of a rendering has no right, enough time to end, and settings that the gateway accepts."""
    found = objects(rendered)
    deployment = found["Deployment", "wechat-store-gateway"]
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    environment = {one["name"]: one.get("value", "redis://127.0.0.1:6379/0") for one in container["env"]}
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container.get("args") and not container.get("command"), "a secret could be in the arguments"
    needed = sum(int(environment[f"WECHAT_STORE_GATEWAY__LIMITS__{key}_MS"]) for key in ("LAME_DUCK", "DRAIN")) / 1000
    assert pod["terminationGracePeriodSeconds"] >= needed + 10
    config_map = next(one for one in yaml.safe_load_all(rendered) if one and one["kind"] == "ConfigMap")
    settings = config_map["data"]["settings.toml"]
    check_settings(gateway, name, settings, environment)


def check_settings(gateway, name, settings, environment):
    """The gateway accepts these settings, with its files below a folder of this test."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings.replace('"/run/secrets/', f'"{folder}/').replace('"/var/run/secrets/', f'"{folder}/')
        make_files(Path(folder))
        environment = {name: value.replace('"/run/secrets/', f'"{folder}/') for name, value in environment.items()}
        path = Path(folder) / "settings.toml"
        path.write_text(settings)
        checked = subprocess.run([gateway, "check", "--config", path], env=environment, capture_output=True, text=True)
        assert checked.returncode == 0, f"{name}: {checked.stderr}"
        if "[listen.tls]" not in settings:
            return
        # The settings need the certificate: without it they are refused.
        (Path(folder) / "tls" / "tls.crt").unlink()
        checked = subprocess.run([gateway, "check", "--config", path], env=environment, capture_output=True, text=True)
        assert checked.returncode == 64 and "tls.crt" in checked.stderr, f"{name}: {checked.stderr}"


def check_documented_container(gateway):
    """The gateway accepts the variables of the `docker run` in docs/install.md and in its translations."""
    docs = DEPLOY.parent / "docs"
    for guide in sorted(docs.glob("**/install.md")):
        command = re.search(r"^docker run (?:.*\\\n)*.*", guide.read_text(), re.MULTILINE)[0]
        environment = {"WECHAT_APP_ID": "wx0123456789abcdef", "WECHAT_APP_SECRET": "secret"}
        environment |= dict(re.findall(r"-e (\w+)=(\S+)", command))
        checked = subprocess.run([gateway, "check"], env=environment, capture_output=True, text=True)
        assert checked.returncode == 0, f"{guide.relative_to(docs)}: {checked.stderr}"
        assert "-p 127.0.0.1:" in command, "anyone may call, so the port must be open to this host only"
    print("install.md: the gateway accepts the variables of the container")


def make_files(folder):
    """Writes the files that Kubernetes would mount."""
    for name in ("wechat", "tls", "kubernetes.io/serviceaccount"):
        (folder / name).mkdir(parents=True)
    (folder / "wechat/official").write_text("secret")
    (folder / "wechat/callback-token").write_text("token")
    (folder / "wechat/state-key").write_text("c3RhdGUta2V5LWZvci10aGUtdGVzdHMtMzItYnl0ZXM=")
    (folder / "wechat/callback-aes-key").write_text("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG")
    new_key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
               "-subj", "/CN=gateway", "-keyout", folder / "tls/tls.key", "-out", folder / "tls/tls.crt"]
    subprocess.run(new_key, check=True, capture_output=True)
    for copy in ("tls/ca.crt", "kubernetes.io/serviceaccount/ca.crt"):
        (folder / copy).write_bytes((folder / "tls/tls.crt").read_bytes())
    (folder / "kubernetes.io/serviceaccount/token").write_text("token")


def check_listen(helm):
    """A change of `tls` makes new pods, and the probes follow the admin port. Other settings make no new pods."""
    def pod(*options):
        options = [part for option in options for part in ("--set", option)]
        return objects(render(helm, *options))["Deployment", "wechat-store-gateway"]["spec"]["template"]

    def sums(*options):
        return pod("tls.secretName=tls", *options)["metadata"]["annotations"]["checksum/listen"]

    assert len({sums(), sums("tls.clientCa=true"), sums("tls.admin=true")}) == 3
    assert sums() == sums("settings=a = 1")
    assert "annotations" not in pod()["metadata"]
    for options, scheme in [((), None), (("tls.secretName=tls",), None), (("tls.secretName=tls", "tls.admin=true"), "HTTPS")]:
        container = pod(*options)["spec"]["containers"][0]
        probes = [container[f"{name}Probe"].get("httpGet") for name in ("startup", "readiness", "liveness")]
        assert {probe.get("scheme") for probe in probes if probe} == {scheme}, probes
    # Named callers prove who they are, so they may come from anywhere.
    render(helm, "--set", "settings=a = 1,service.type=LoadBalancer,networkPolicy.enabled=false")
    print("chart: new pods for a change of tls, and probes that follow it")


def check_admin_port(rendered):
    """Only pods that are named can reach the admin port."""
    policy = next(one for one in yaml.safe_load_all(rendered) if one and one["kind"] == "NetworkPolicy")
    rules = [rule for rule in policy["spec"]["ingress"] if {"port": "admin"} in rule["ports"]]
    for peer in [peer for rule in rules for peer in rule["from"]]:
        assert peer.get("podSelector") and all(peer.values()), f"every pod reaches the admin port: {peer}"


def check_monitoring(rendered):
    """The operator's objects have the rules of deploy/prometheus, and select the Service with the admin port."""
    found = {one["kind"]: one for one in yaml.safe_load_all(rendered) if one and "coreos.com" in one["apiVersion"]}
    assert found["PrometheusRule"]["spec"] == load(DEPLOY / "prometheus" / "rules.yaml"), "other rules"
    selector = found["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    services = [one for one in yaml.safe_load_all(rendered) if one and one["kind"] == "Service"]
    selected = [one for one in services if selector <= one["metadata"]["labels"].items()]
    assert [port["name"] for one in selected for port in one["spec"]["ports"]] == ["admin"], selected
    # The rules and the dashboard expect the name of the chart as the job.
    label = found["ServiceMonitor"]["spec"]["jobLabel"]
    assert selected[0]["metadata"]["labels"][label] == "wechat-store-gateway"


def check_refusals(helm):
    """The chart refuses wrong values, with a reason."""
    for value, reason in WRONG_VALUES.items():
        command = [helm, "template", "x", str(CHART), "--set", value]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode != 0 and reason in refused.stderr, f"{value}: {refused.stderr or 'accepted'}"
    print(f"chart: {len(WRONG_VALUES)} wrong values refused")


def main():
    gateway, helm, out = sys.argv[1:]
    check_compose()
    check_documented_container(gateway)
    if not helm:
        return
    linted = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    check_kubernetes(helm)
    check_refusals(helm)
    check_listen(helm)
    os.makedirs(out, exist_ok=True)
    for values in [None, *sorted((CHART / "ci").glob("*.yaml"))]:
        name = values.stem if values else "default"
        rendered = render(helm, *(["--values", str(values)] if values else []))
        check_selectors(rendered)
        check_pod(gateway, name, rendered)
        check_admin_port(rendered)
        if name == "everything":
            check_monitoring(rendered)
        Path(out, f"{name}.yaml").write_text(rendered)
    print("chart: rendered with each file of ci/, and the gateway accepts the settings")


if __name__ == "__main__":
    main()
