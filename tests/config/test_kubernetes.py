"""The Kubernetes manifests: valid by the API's schemas, and the same as docker-compose.yml."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from prediction_service.metrics import Metrics
from prediction_service.settings import Settings
from tests.conftest import ROOT, run

FOLDER = ROOT / "config" / "kubernetes"
BASE, MANAGED = FOLDER / "base", FOLDER / "managed"
README = (FOLDER / "README.md").read_text("utf-8")
OLDEST = "1.30"  # as README.md says
LEFT_OUT = {"postgres", "prometheus", "grafana", "jupyter", "traffic", "volumes"}
LABEL = "app.kubernetes.io/name"
HARDENED = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
CPU_SHARES, CPU_REQUEST_M = 1024, 100  # default of Compose, and the request in its place
MERGE_KEYS = ("name", "mountPath", "containerPort")  # of lists, in a strategic merge

Resources = dict[tuple[str, str], Any]  # by kind and name


def default(text: str) -> str:
    """Return a text of the Compose file, with the values of an empty `.env`."""
    while found := re.search(r"\$\{[A-Z_]+:?([-+])([^${}]*)\}", text):
        text = text.replace(found[0], found[2] if found[1] == "-" else "")
    return text.replace("$$", "$")


def load(path: Path) -> Any:
    """Return the one document of a YAML file."""
    return yaml.safe_load(path.read_text("utf-8"))


def merge(old: Any, patch: Any) -> Any:
    """Return what a strategic merge makes of a resource, or of a part of it."""
    if isinstance(old, dict) and isinstance(patch, dict):
        changed = {key: merge(old.get(key), value) for key, value in patch.items()}
        return {key: value for key, value in (old | changed).items() if value is not None}
    if isinstance(old, list) and isinstance(patch, list):
        for key in MERGE_KEYS:
            if all(isinstance(one, dict) and key in one for one in old + patch):
                patches = {one[key]: one for one in patch}
                kept = [merge(one, patches.pop(one[key], {})) for one in old]
                return kept + list(patches.values())
    return patch


def generated(folder: Path, generator: dict[str, Any]) -> dict[str, str]:
    """Return the data of a generated ConfigMap."""
    data = {name: (folder / name).read_text("utf-8") for name in generator.get("files", [])}
    for name in generator.get("envs", []):
        lines = (folder / name).read_text("utf-8").splitlines()
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return data


def read(folder: Path) -> Resources:
    """Return the resources that Kustomize makes of a folder, without namespace, hashes and images.

    Fails for a file that does not exist, a resource that exists twice, or a patch without a target.
    """
    kustomization = load(folder / "kustomization.yaml")
    found: Resources = {}
    for name in kustomization.get("resources", []):
        path = folder / name
        documents = [] if path.is_dir() else yaml.safe_load_all(path.read_text("utf-8"))
        new = {(one["kind"], one["metadata"]["name"]): one for one in documents}
        new |= read(path) if path.is_dir() else {}
        assert not found.keys() & new.keys()
        found |= new
    for generator in kustomization.get("configMapGenerator", []):
        key = "ConfigMap", generator["name"]
        assert (key in found) == (generator.get("behavior") == "merge"), key
        made = {"apiVersion": "v1", "kind": key[0], "metadata": {"name": key[1]}}
        found[key] = merge(found.get(key, made), {"data": generated(folder, generator)})
    for patch in kustomization.get("patches", []):
        if "target" in patch:
            assert set(patch["target"]) == {"name"} and "$patch: delete\n" in patch["patch"]
            names = set(patch["target"]["name"].split("|"))
            assert names <= {name for _, name in found}
            found = {key: one for key, one in found.items() if key[1] not in names}
        else:
            document = load(folder / patch["path"])
            key = document["kind"], document["metadata"]["name"]
            check_target(found[key], document, key[1])
            found[key] = merge(found[key], document)
    return found


def check_target(resource: Any, patch: Any, name: str) -> None:
    """Fail if a patch adds a container or a volume: it must change one that exists."""
    old, new = (
        one.get("spec", {}).get("template", {}).get("spec", {}) for one in (resource, patch)
    )
    for part in ("containers", "volumes"):
        names = [{one["name"] for one in pod.get(part, [])} for pod in (old, new)]
        assert names[1] <= names[0], (name, part)


COMPOSE = load(ROOT / "docker-compose.yml")["services"]
SERVICES = {name: one for name, one in COMPOSE.items() if name not in LEFT_OUT}
STACKS = {"base": read(BASE), "managed": read(MANAGED)}


def stateful_sets(stack: Resources) -> dict[str, Any]:
    """Return the StatefulSets by name: they have all pods."""
    return {name: one for (kind, name), one in stack.items() if kind == "StatefulSet"}


def pod_of(stack: Resources, service: str) -> Any:
    """Return the pod that holds the container of a Compose service."""
    pods = [one["spec"]["template"]["spec"] for one in stateful_sets(stack).values()]
    (pod,) = (one for one in pods if service in {made["name"] for made in one["containers"]})
    return pod


def container_of(stack: Resources, service: str) -> Any:
    """Return the container of a Compose service."""
    return next(one for one in pod_of(stack, service)["containers"] if one["name"] == service)


def environment_of(stack: Resources, service: str) -> dict[str, str]:
    """Return a container's variables except empty ones, which count as unset."""
    container = container_of(stack, service)
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= stack["ConfigMap", source["configMapRef"]["name"]]["data"]
    found |= {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}
    return {name: value for name, value in found.items() if value}


def secrets_of(stack: Resources, service: str) -> set[str]:
    """Return the names of the files in a container's /run/secrets."""
    volumes = {one["name"]: one for one in pod_of(stack, service)["volumes"]}
    mounts = container_of(stack, service)["volumeMounts"]
    names = [one["name"] for one in mounts if one["mountPath"] == "/run/secrets"]
    secrets = [one["name"] for one in mounts if "secret" in volumes.get(one["name"], {})]
    assert names == secrets
    items = [item for name in names for item in volumes[name]["secret"]["items"]]
    assert all(volumes[name]["secret"]["secretName"] == "income" for name in names)
    assert all(item["key"] == item["path"] for item in items)
    return {item["key"] for item in items}


def yaml_block(key: str) -> Any:
    """Return the YAML example of README.md that has a top-level key."""
    blocks = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", README, re.S)]
    return next(one for one in blocks if key in one)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_every_manifest_is_valid_in_the_oldest_and_the_newest_version(stack, version):
    assert f"Kubernetes {OLDEST} or later" in README
    for resource in STACKS[stack].values():
        kubernetes_validate.validate(resource, version, strict=True)


def in_any_order(value: Any) -> Any:
    """Return a value with lists of mappings sorted."""
    if isinstance(value, dict):
        return {key: in_any_order(one) for key, one in value.items()}
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return sorted(map(in_any_order, value), key=lambda one: json.dumps(one, sort_keys=True))
    return value


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not on the PATH")
@pytest.mark.parametrize("stack", STACKS)
def test_kustomize_makes_the_resources_that_these_tests_read(stack):
    built = run("kubectl", "kustomize", FOLDER / stack)
    built = re.sub(r"\b(settings|mongo-users)-[a-z0-9]{10}\b", r"\1", built)
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built)}
    for (kind, _), one in found.items():
        assert kind == "Namespace" or one["metadata"].pop("namespace") == "income"
    assert in_any_order(found) == in_any_order(STACKS[stack])


def test_every_file_is_part_of_the_base_or_of_the_overlay():
    for folder in (BASE, MANAGED):
        kustomization = load(folder / "kustomization.yaml")
        named = set(kustomization["resources"]) | {"kustomization.yaml"}
        named |= {one.get("path") for one in kustomization.get("patches", [])}
        named |= {name for one in kustomization["configMapGenerator"] for name in one["envs"]}
        assert {path.name for path in folder.iterdir()} <= named


def test_each_service_that_starts_with_compose_has_a_container():
    for stack, removed in (("base", set()), ("managed", {"mongo", "gcs"})):
        pods = [one["spec"]["template"]["spec"] for one in stateful_sets(STACKS[stack]).values()]
        names = [one["name"] for pod in pods for one in pod["containers"]]
        assert sorted(names) == sorted(SERVICES.keys() - removed)
        assert not any("initContainers" in pod for pod in pods)


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_runs_the_image_and_the_command_of_its_service(service):
    container, compose = container_of(STACKS["base"], service), SERVICES[service]
    assert container["image"] == default(compose["image"])
    assert container.get("args", []) == [default(one) for one in compose.get("command", [])]
    assert "command" not in container  # it would replace the image's entry point


def test_each_image_of_the_project_can_get_a_registry_and_a_tag():
    images = {default(one["image"]) for one in SERVICES.values() if "build" in one}
    named = {
        f"{one['name']}:{one['newTag']}" for one in load(BASE / "kustomization.yaml")["images"]
    }
    assert named == images


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_the_settings_of_its_service(service):
    stack = STACKS["base"]
    found = environment_of(stack, service)
    given = {
        name: default(str(value))
        for name, value in SERVICES[service].get("environment", {}).items()
    }
    if "PAGE_LINKS" in given:
        given["PAGE_LINKS"] = given["PAGE_LINKS"].removesuffix(",Grafana=8085")
    expected = {name: value for name, value in given.items() if value}
    assert {name: found.get(name) for name in expected} == expected
    shared = stack["ConfigMap", "settings"]["data"].keys() if len(found) > len(expected) else set()
    assert found.keys() - expected.keys() <= shared
    variables = container_of(stack, service).get("env", [])
    (*other,) = [one for one in variables if "value" not in one]
    assert [one["name"] for one in other] == (["NOTIFY_URL"] if service == "worker" else [])
    assert all(one["valueFrom"]["secretKeyRef"]["optional"] for one in other)


def test_shared_settings_are_those_of_the_compose_file_and_hold_no_password():
    known = {name for one in SERVICES.values() for name in one.get("environment", {})}
    for stack in STACKS.values():
        settings = stack["ConfigMap", "settings"]["data"]
        assert settings.keys() <= known
        assert not any(re.search("PASSWORD|TOKEN|_KEY$|SECRET", name) for name in settings)
        assert not any(re.search(r"//\w+:[^/]*@", value) for value in settings.values())


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_only_the_secrets_of_its_service(service):
    expected = set(SERVICES[service].get("secrets", []))
    assert secrets_of(STACKS["base"], service) == expected - {"google_credentials"}
    if service not in ("mongo", "gcs"):
        assert secrets_of(STACKS["managed"], service) == expected


@pytest.mark.parametrize("stack", STACKS)
def test_a_container_names_only_secrets_that_it_mounts(stack):
    for pod in stateful_sets(STACKS[stack]).values():
        for container in pod["spec"]["template"]["spec"]["containers"]:
            text = json.dumps(container)
            named = set(re.findall(r"/run/secrets/(\w+)", text))
            assert named <= secrets_of(STACKS[stack], container["name"]), container["name"]


def test_make_secrets_makes_the_keys_of_the_base_and_readme_explains_the_others():
    script = (ROOT / "config/operate/secrets").read_text("utf-8")
    made = {
        line.split()[0] for line in script.split("NAMES'\n")[1].split("\nNAMES")[0].splitlines()
    }
    made.add("relay_key_hash")
    base = {name for service in SERVICES for name in secrets_of(STACKS["base"], service)}
    assert base <= made
    services = SERVICES.keys() - {"mongo", "gcs"}
    managed = {name for service in services for name in secrets_of(STACKS["managed"], service)}
    (other,) = managed - made
    assert f"`var/secrets/{other}`" in README


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_mounts_the_volumes_of_its_service_and_a_tmp_of_its_own(service):
    (of_pod,) = (
        one["spec"]
        for one in stateful_sets(STACKS["base"]).values()
        if one["spec"]["template"]["spec"] == pod_of(STACKS["base"], service)
    )
    claims = {one["metadata"]["name"] for one in of_pod["volumeClaimTemplates"]}
    mounts = {one["name"]: one for one in container_of(STACKS["base"], service)["volumeMounts"]}
    found = {
        f"{name}:{one['mountPath']}{':ro' if one.get('readOnly') else ''}"
        for name, one in mounts.items()
        if name in claims
    }
    assert found == {one for one in SERVICES[service].get("volumes", []) if one[0] not in ".$"}
    tmp = f"{service}-tmp"
    assert mounts[tmp]["mountPath"] == SERVICES[service]["tmpfs"][0]
    assert {"name": tmp, "emptyDir": {"medium": "Memory"}} in of_pod["template"]["spec"]["volumes"]
    assert mounts.keys() - claims <= {tmp, f"{service}-secrets", "users"}


def test_mongodb_gets_the_script_of_its_users():
    (bound,) = (one for one in SERVICES["mongo"]["volumes"] if one.startswith("./"))
    source, target, mode = bound.split(":")
    mounts = {one["name"]: one for one in container_of(STACKS["base"], "mongo")["volumeMounts"]}
    assert mounts["users"]["mountPath"] == str(Path(target).parent)
    assert mounts["users"]["readOnly"] is (mode == "ro")
    (volume,) = (one for one in pod_of(STACKS["base"], "mongo")["volumes"] if "configMap" in one)
    data = STACKS["base"]["ConfigMap", volume["configMap"]["name"]]["data"]
    assert volume["name"] == "users"
    assert data == {Path(target).name: (ROOT / source).read_text("utf-8")}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_the_limits_of_its_service(service):
    compose = SERVICES[service]
    resources = container_of(STACKS["base"], service)["resources"]
    memory = re.sub("m$", "Mi", re.sub("g$", "Gi", compose["mem_limit"]))
    assert resources["limits"] == {"memory": memory}
    request = compose.get("cpu_shares", CPU_SHARES) * CPU_REQUEST_M // CPU_SHARES
    assert resources["requests"] == {"cpu": f"{request}m"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_the_health_check_of_its_service(service):
    container, check = container_of(STACKS["base"], service), SERVICES[service]["healthcheck"]
    probe = container["livenessProbe"]
    kind, *command = [default(one) for one in check["test"]]
    if "httpGet" in probe:
        get = probe["httpGet"]
        assert command == ["http_ok", f"http://127.0.0.1:{get['port']}{get['path']}"]
    else:
        shell = ["sh", "-c"] if kind == "CMD-SHELL" else []
        assert probe["exec"]["command"] == shell + command
    times = {"initialDelaySeconds": "start_period", "periodSeconds": "interval"}
    times |= {"timeoutSeconds": "timeout"}
    assert {key: f"{probe[key]}s" for key in times} == {k: check[v] for k, v in times.items()}
    assert probe["failureThreshold"] == check["retries"]


def test_a_service_gets_requests_once_its_pod_can_respond_to_them():
    for name in SERVICES:
        container = container_of(STACKS["base"], name)
        is_listening = "ports" in container and name != "worker"
        assert is_listening == ("readinessProbe" in container), name
        if "httpGet" in container.get("readinessProbe", {}):
            ready, live = (container[f"{one}Probe"]["httpGet"] for one in ("readiness", "liveness"))
            assert ready == live | ({"path": "/health/ready"} if name == "prediction" else {})


@pytest.mark.parametrize("stack", STACKS)
def test_pods_are_restricted(stack):
    """In a shared process namespace, containers of one user could read each other's secrets."""
    enforced = STACKS[stack]["Namespace", "income"]["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, one in stateful_sets(STACKS[stack]).items():
        pod = one["spec"]["template"]["spec"]
        dockerfile = SERVICES[name].get("build", {}).get("dockerfile")
        text = (ROOT / dockerfile).read_text("utf-8") if dockerfile else ""
        user = re.search(r"--uid (\d+) ", text) or re.match(r"(\d+):", SERVICES[name]["user"])
        assert user
        ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), int(user[1]))
        profile = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert pod["securityContext"] == ids | profile
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # a Service `prediction`: PREDICTION_PORT=tcp://
        assert pod.get("shareProcessNamespace", False) == (len(pod["containers"]) == 1)
        assert all(made["securityContext"] == HARDENED for made in pod["containers"])
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"}


@pytest.mark.parametrize("stack", STACKS)
def test_every_address_is_that_of_a_service_and_its_pods(stack):
    services = {name: one for (kind, name), one in STACKS[stack].items() if kind == "Service"}
    ports = {}
    for name, one in services.items():
        template = stateful_sets(STACKS[stack])[name]
        labels = {LABEL: name}
        assert (
            one["spec"]["selector"] == template["spec"]["template"]["metadata"]["labels"] == labels
        )
        assert template["spec"]["selector"]["matchLabels"] == labels
        assert template["spec"]["serviceName"] == name
        (ports[name],) = (port["port"] for port in one["spec"]["ports"])
        opened = container_of(STACKS[stack], name)["ports"]
        assert [port["containerPort"] for port in opened] == [ports[name]]
    assert services.keys() == stateful_sets(STACKS[stack]).keys()
    named = set()
    for service in SERVICES.keys() - ({"mongo", "gcs"} - services.keys()):
        values = " ".join(environment_of(STACKS[stack], service).values())
        named |= set(re.findall(r"//(?:\w+@)?([a-z]+):(\d+)", values))
    assert {(name, int(port)) for name, port in named} <= ports.items()
    assert len(named) > 3


def names_in(policy: Any) -> set[str]:
    """Return the pods that a policy is for."""
    (expression,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert (expression["key"], expression["operator"]) == (LABEL, "In")
    return set(expression["values"])


def test_policies_allow_what_the_networks_of_compose_allow():
    policies = {n: one for (kind, n), one in STACKS["base"].items() if kind == "NetworkPolicy"}
    deny, back = policies["default-deny"]["spec"], policies["back"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert back["podSelector"] == {} and back["ingress"] == [{"from": [{"podSelector": {}}]}]
    between, dns = back["egress"]
    assert between == {"to": [{"podSelector": {}}]}
    assert {(one["port"], one["protocol"]) for one in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    published = {
        name: int(one["ports"][0].rsplit(":", 1)[1])
        for name, one in SERVICES.items()
        if "ports" in one and name != "mongo"  # published on the machine alone
    }
    published["worker"] = SERVICES["worker"]["environment"]["METRICS_PORT"]
    (rule,) = policies["front-ingress"]["spec"]["ingress"]
    assert names_in(policies["front-ingress"]) == published.keys()
    assert {one["port"] for one in rule["ports"]} == set(published.values())
    (source,) = rule["from"]
    label = source["namespaceSelector"]["matchLabels"]
    assert all(f"{key}={value}" in README for key, value in label.items())
    assert names_in(policies["front-egress"]) == {"worker"}
    reaching = names_in(STACKS["managed"]["NetworkPolicy", "front-egress"])
    assert reaching == {"worker", "prediction", "mlflow", "prefect"}
    front = {name for name, one in SERVICES.items() if "front" in one["networks"]}
    assert reaching <= front


def test_a_pod_has_time_to_stop_and_the_relay_stops_last():
    sleeps = {}
    for service, compose in SERVICES.items():
        stop = container_of(STACKS["base"], service).get("lifecycle", {}).get("preStop", {})
        sleeps[service] = stop.get("sleep", {}).get("seconds", 0)
        grace_s = int(compose.get("stop_grace_period", "10s").removesuffix("s"))
        allowed_s = pod_of(STACKS["base"], service).get("terminationGracePeriodSeconds", 30)
        assert sleeps[service] + grace_s <= allowed_s, service
    finished_s = sleeps["prediction"] + Settings().graceful_timeout_s
    assert 0 < finished_s < sleeps["relay"]


def test_each_volume_has_one_writer_and_scaled_predictions_keep_their_journals():
    for name, one in stateful_sets(STACKS["base"]).items():
        assert one["spec"]["replicas"] == (2 if name == "prediction" else 1), name
    spec = stateful_sets(STACKS["base"])["prediction"]["spec"]
    kept = {"whenScaled": "Retain", "whenDeleted": "Retain"}
    assert spec["persistentVolumeClaimRetentionPolicy"] == kept
    # In order, the second pod would wait for the first one's model.
    assert spec["podManagementPolicy"] == "Parallel"
    budget = STACKS["base"]["PodDisruptionBudget", "prediction"]["spec"]
    assert budget["selector"] == spec["selector"] and budget["maxUnavailable"] == 1


def test_managed_databases_replace_files_and_emulators():
    base, managed = STACKS["base"], STACKS["managed"]
    args = [
        one.replace("gs://income-artifacts", "gs://YOUR_BUCKET")
        for one in container_of(base, "mlflow")["args"]
    ]
    assert container_of(managed, "mlflow")["args"] == args
    google = {"GOOGLE_APPLICATION_CREDENTIALS": "/run/secrets/google_credentials"}
    url = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    prefect = {url: "postgresql+asyncpg://prefect@YOUR_POSTGRESQL/prefect"}
    added = {"mlflow": google, "prefect": prefect, "worker": google}
    mlflow = environment_of(managed, "mlflow")["MLFLOW_BACKEND_STORE_URI"]
    assert mlflow == "postgresql+psycopg://mlflow@YOUR_POSTGRESQL/mlflow"
    for service in SERVICES.keys() - {"mongo", "gcs"}:
        before, after = (environment_of(stack, service) for stack in (base, managed))
        assert after.items() - before.items() >= added.get(service, {}).items()
        assert "gcs:" not in str(after) and "@mongo:" not in str(after)
        assert after.keys() - before.keys() == added.get(service, {}).keys()
        removed = before.keys() - after.keys()
        assert removed == ({"STORAGE_EMULATOR_HOST"} & before.keys())
        (*user,) = re.findall(r"mongodb://(\w+)@", before.get("MONGODB_ADDRESS", ""))
        assert user == re.findall(r"mongodb://(\w+)@", after.get("MONGODB_ADDRESS", ""))


def test_the_autoscaler_follows_a_metric_that_the_service_exports():
    stack = STACKS["managed"]
    spec = stack["HorizontalPodAutoscaler", "prediction"]["spec"]
    target = spec["scaleTargetRef"]
    scaled = stack[target["kind"], target["name"]]
    assert target["apiVersion"] == scaled["apiVersion"]
    assert "replicas" not in scaled["spec"]  # `kubectl apply` would set it again
    rate, cpu = spec["metrics"]
    (rule,) = yaml_block("rules")["rules"]
    assert rate["pods"]["metric"]["name"] == rule["name"]["as"]
    registry = CollectorRegistry()
    Metrics(registry)
    series = rule["seriesQuery"].partition("{")[0]
    families = [one.name for one in registry.collect()]
    assert series.removesuffix("_total") in families
    assert container_of(stack, cpu["containerResource"]["container"])


def test_prometheus_finds_the_jobs_of_the_stack():
    config = load(ROOT / "config/prometheus/prometheus.yml")
    expected = {
        job["job_name"]: job["static_configs"][0]["targets"][0].split(":")
        for job in config["scrape_configs"]
        if job["job_name"] != "prometheus"
    }
    found = {}
    for name, one in stateful_sets(STACKS["base"]).items():
        if notes := one["spec"]["template"]["metadata"].get("annotations"):
            assert notes["prometheus.io/scrape"] == "true"
            found[notes["prometheus.io/job"]] = [name, notes["prometheus.io/port"]]
    assert found == expected
    (scraped,) = yaml_block("scrape_configs")["scrape_configs"]
    assert {"target_label": "job"}.items() <= scraped["relabel_configs"][1].items()
