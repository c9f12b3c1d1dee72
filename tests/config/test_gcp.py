"""The parsed Terraform files for Google Cloud: roles, open ports and start-up scripts."""

import re
import shutil
from collections.abc import Iterator
from functools import cache
from typing import Any

import hcl2
import pytest
import yaml

from tests.conftest import ROOT, run

FOLDER = ROOT / "config" / "gcp"
STARTUP = (FOLDER / "startup.sh.tftpl").read_text("utf-8")
IAP = "35.235.240.0/20"  # cloud.google.com/iap/docs/using-tcp-forwarding


def unquoted(value: Any) -> Any:
    """Return a parsed value without the quotes that hcl2 keeps around strings and names."""
    if isinstance(value, dict):
        return {unquoted(key): unquoted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [unquoted(one) for one in value]
    return value.removeprefix('"').removesuffix('"') if isinstance(value, str) else value


@cache
def files() -> list[Any]:
    """Return every parsed file."""
    return [unquoted(hcl2.loads(path.read_text("utf-8"))) for path in sorted(FOLDER.glob("*.tf"))]


def blocks(kind: str) -> Iterator[tuple[str, Any]]:
    """Yield every block of a kind, such as `variable`, with its name."""
    for file in files():
        for block in file.get(kind, []):
            yield from block.items()


def resources(kind: str) -> dict[str, Any]:
    """Return the resources of a type by name."""
    return {
        name: body
        for type_, named in blocks("resource")
        if type_ == kind
        for name, body in named.items()
    }


def test_only_machines_get_roles_and_each_role_is_minimal():
    roles = {
        kind: {one["role"] for one in resources(kind).values()}
        for kind, _ in blocks("resource")
        if "_iam_" in kind
    }
    assert roles == {
        "google_project_iam_member": {"roles/logging.logWriter"},
        "google_storage_bucket_iam_member": {"roles/storage.objectUser"},
        "google_secret_manager_secret_iam_member": {"roles/secretmanager.secretAccessor"},
    }
    assert "allUsers" not in "".join(path.read_text("utf-8") for path in FOLDER.glob("*.tf"))


def test_buckets_are_private_and_keep_their_content():
    (bucket,) = resources("google_storage_bucket").values()
    assert bucket["public_access_prevention"] == "enforced"
    assert bucket["force_destroy"] is False and bucket["versioning"][0]["enabled"] is True


def test_each_firewall_rule_names_its_ports_and_its_sources():
    rules = resources("google_compute_firewall")
    sources = {
        name: (rule.get("source_ranges"), rule.get("source_service_accounts"))
        for name, rule in rules.items()
    }
    assert sources == {
        "iap_ssh": ([IAP], None),
        "project_to_prefect": (None, ["${google_service_account.project.email}"]),
        "allowed": ("${var.allowed_addresses}", None),
    }
    ports = {name: rule["allow"][0]["ports"] for name, rule in rules.items()}
    assert ports["iap_ssh"] == ["22"] and ports["project_to_prefect"] == ["4200"]
    assert "var.open_ports" in ports["allowed"]
    assert all(rule["direction"] == "INGRESS" for rule in rules.values())
    assert all(rule["target_service_accounts"] for rule in rules.values())


def test_no_port_is_open_by_default_and_only_ports_with_credentials_can_be_opened():
    variables = dict(blocks("variable"))
    assert variables["allowed_addresses"]["default"] == []
    assert "cidrnetmask" in variables["allowed_addresses"]["validation"][0]["condition"]
    condition = variables["open_ports"]["validation"][0]["condition"]
    allowed = set(map(int, re.findall(r"\d{4,}", condition)))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    published = {
        int(re.search(r":-(\d+)}:\d+$", binding)[1])
        for service in services.values()
        for binding in service.get("ports", [])
    }
    assert allowed <= published
    assert not allowed & {27017, 9090, 4200}


def test_machines_have_no_public_address_by_default_and_accept_no_project_keys():
    machines = resources("google_compute_instance")
    assert set(machines) == {"project", "prefect"}
    for machine in machines.values():
        (interface,) = machine["network_interface"]
        assert "access_config" not in interface
        for dynamic in interface.get("dynamic", []):
            addresses = dynamic["access_config"]["for_each"]
            assert addresses == "${google_compute_address.project[*].address}"
        assert machine["metadata"]["enable-oslogin"] == "TRUE"
        assert machine["metadata"]["block-project-ssh-keys"] == "TRUE"
        assert machine["deletion_protection"] == "${var.deletion_protection}"
    (address,) = resources("google_compute_address").values()
    assert address["count"] == "${length(var.allowed_addresses) > 0 ? 1 : 0}"


def test_a_machine_boots_after_the_resources_that_its_start_up_script_needs():
    """The first start-up would fail without its roles or its internet access."""
    needed = {"${google_compute_router_nat.income}"}
    needed |= {"${google_secret_manager_secret_iam_member.prefect}"}
    machines = resources("google_compute_instance")
    assert needed <= set(machines["prefect"]["depends_on"])
    needed |= {"${google_storage_bucket_iam_member.project}"}
    assert needed <= set(machines["project"]["depends_on"])


def settings_of(machine: dict[str, Any]) -> dict[str, str]:
    """Return the settings that the start-up script writes into a machine's .env."""
    call = machine["metadata"]["startup-script"]
    inside = call.split("settings = {")[1].split("}, start")[0]
    return dict(re.findall(r"([A-Z_]+) = (.+?)(?=, [A-Z_]+ = |$)", inside))


@pytest.mark.parametrize("name", ["project", "prefect"])
def test_the_compose_file_has_every_setting_and_profile_of_a_machine(name):
    settings = settings_of(resources("google_compute_instance")[name])
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    services = yaml.safe_load(compose)["services"].values()
    profiles = {profile for service in services for profile in service.get("profiles", [])}
    assert set(settings.pop("COMPOSE_PROFILES").strip('\\"').split(",")) <= profiles
    assert settings
    for setting in settings:
        assert f"${{{setting}" in compose, setting


def commands_of(machine: dict[str, Any]) -> list[str]:
    """Return the last commands of the start-up script."""
    start = machine["metadata"]["startup-script"].split("start = ")[1]
    return [command for command in re.findall(r'"([^"]*)"', start) if command != "\\n"]


@pytest.mark.parametrize("name", ["project", "prefect"])
def test_the_start_up_script_is_valid_bash_and_calls_existing_targets_and_services(name, tmp_path):
    machine = resources("google_compute_instance")[name]
    given = {"repository_url": "https://example.org/a.git", "revision": "v1"}
    given["secret_version"] = "projects/1/secrets/income-prefect-auth/versions/1"
    given["start"] = "\n".join(commands_of(machine)).replace("${local.prefect_api_url}", "http://a")
    assert all(f"{key} = " in machine["metadata"]["startup-script"] for key in given)
    script = re.sub(r"%\{ for .*%\{ endfor ~\}\n", "A=1\n", STARTUP, flags=re.S)
    script = re.sub(r"\$\{(\w+)\}", lambda found: given[found[1]], script)
    path = tmp_path / "startup.sh"
    path.write_text(script, "utf-8")
    run("bash", "-n", path)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"^make ([a-z-]+)$", script, re.M)) <= targets
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert set(re.findall(r"^docker compose up .* ([a-z]+)$", script, re.M)) <= services.keys()


def test_the_project_machine_waits_for_the_prefect_server_before_its_worker_starts():
    """The worker waits two minutes. The small machine takes longer to build its image."""
    *_, wait, up = commands_of(resources("google_compute_instance")["project"])
    assert up == "make up"
    assert wait.startswith("curl --fail ") and "${local.prefect_api_url}/health" in wait


@pytest.mark.skipif(not shutil.which("terraform"), reason="terraform is not on the PATH")
@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ('allowed_addresses=["203.0.113.0/24", "10.0.0.0/8"]', True),
        ('allowed_addresses=["0.0.0.0/0"]', False),
        ('allowed_addresses=["0.0.0.0/00"]', False),
        ('allowed_addresses=["0.0.0.0/1", "128.0.0.0/1"]', False),
        ('allowed_addresses=["::/0"]', False),
        ("open_ports=[9696, 8085]", True),
        ("open_ports=[9696, 27017]", False),
        ("revision=feature/a-1.2", True),
        ("revision=--upload-pack=a", False),
        ("repository_url=https://example.org/a'b.git", False),
    ],
)
def test_terraform_rejects_public_access_and_values_that_would_break_the_script(
    setting, accepted, tmp_path
):
    shutil.copy(FOLDER / "variables.tf", tmp_path)  # alone it needs no provider
    given = ["project=p", "repository_url=https://example.org/a.git", setting]
    command = ["terraform", "plan", "-input=false", *(f"-var={one}" for one in given)]
    output = run(*command, cwd=tmp_path, status=0 if accepted else 1)
    assert accepted or "Invalid value for variable" in output
