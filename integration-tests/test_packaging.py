"""Rules of the workspace that a machine can check: versions, licences, dependencies, entry points, wheels."""

from __future__ import annotations

import re
import tomllib
import zipfile
from importlib.metadata import EntryPoint, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from wheelhouse import ROOT, build, members, module_of

MEMBERS = members()
ADAPTERS = {
    name
    for name, pyproject in MEMBERS.items()
    if {"omnidaemon.event_buses", "omnidaemon.stores"} & pyproject["project"].get("entry-points", {}).keys()
}


def dependencies(name):
    project = MEMBERS[name]["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [
        Requirement(line) for line in [*project.get("dependencies", []), *(line for lines in extras for line in lines)]
    ]


def declared_entry_points(name):
    project = MEMBERS[name]["project"]
    groups = dict(project.get("entry-points", {}))
    if scripts := project.get("scripts"):
        groups["console_scripts"] = scripts
    return {(group, key, value) for group, entries in groups.items() for key, value in entries.items()}


ENTRY_POINTS = sorted(entry for name in MEMBERS for entry in declared_entry_points(name))


def test_one_version_for_all_and_it_heads_the_changelog():
    versions = {name: pyproject["project"]["version"] for name, pyproject in MEMBERS.items()}
    assert len(set(versions.values())) == 1, versions
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] in {"Unreleased", *versions.values()}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_package_is_named_as_its_folder_and_never_omnidaemon(name):
    assert MEMBERS[name]["project"]["name"] == name
    assert name.startswith("omnidaemon-")


@pytest.mark.parametrize("name", MEMBERS)
def test_licence_is_the_root_s_and_declared(name):
    project = MEMBERS[name]["project"]
    assert (ROOT / "packages" / name / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]


@pytest.mark.parametrize("name", MEMBERS)
def test_a_package_says_what_it_is(name):
    project = MEMBERS[name]["project"]
    assert project["description"]
    assert project["requires-python"] == ">=3.11"
    assert (ROOT / "packages" / name / project["readme"]).read_text(encoding="utf-8").startswith(f"# {name}\n")


@pytest.mark.parametrize("name", MEMBERS)
def test_every_dependency_has_a_lower_and_an_upper_bound(name):
    for requirement in dependencies(name):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, f"{name}: {requirement} has no lower bound"
        assert "<" in operators, f"{name}: {requirement} has no upper bound"


@pytest.mark.parametrize("name", MEMBERS)
def test_siblings_are_asked_for_by_the_range_of_this_minor(name):
    major, minor, _ = MEMBERS[name]["project"]["version"].split(".")
    for requirement in dependencies(name):
        if requirement.name in MEMBERS:
            assert str(requirement.specifier) == f"<{major}.{int(minor) + 1},>={major}.{minor}"


def test_core_needs_pydantic_and_nothing_else():
    assert [requirement.name for requirement in dependencies("omnidaemon-core")] == ["pydantic"]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_depends_on_core_and_on_no_sibling(name):
    siblings = {requirement.name for requirement in dependencies(name)} & MEMBERS.keys()
    assert siblings == {"omnidaemon-core"}


@pytest.mark.parametrize(("group", "key", "value"), ENTRY_POINTS)
def test_every_declared_entry_point_loads(group, key, value):
    assert EntryPoint(key, value, group).load() is not None


@pytest.mark.parametrize("name", MEMBERS)
def test_what_is_installed_is_what_the_pyproject_says(name):
    installed = {(entry.group, entry.name, entry.value) for entry in distribution(name).entry_points}
    assert installed == declared_entry_points(name), "run `hatch env prune`: hatch does not watch entry points"


def test_no_two_packages_claim_one_entry_point():
    claims = [(group, key) for group, key, _ in ENTRY_POINTS]
    assert len(claims) == len(set(claims))


def test_hatch_names_existing_members_once():
    listed = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"]["default"]["workspace"]["members"]
    assert len(listed) == len(set(listed))
    assert {path.removeprefix("packages/") for path in listed} <= MEMBERS.keys()


def test_types_and_import_contracts_cover_every_module():
    modules = {module for pyproject in MEMBERS.values() if (module := module_of(pyproject))}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert set(tools["importlinter"]["root_packages"]) == modules
    assert set(tools["mypy"]["packages"]) == modules
    # By name: pyright passes without a word when a pattern finds no file.
    sources = {f"packages/{name}/src" for name, pyproject in MEMBERS.items() if module_of(pyproject)}
    assert set(tools["pyright"]["include"]) == sources


def test_the_bundle_s_extras_are_named_after_what_they_bring():
    for extra, lines in MEMBERS["omnidaemon-standard"]["project"]["optional-dependencies"].items():
        assert [Requirement(line).name for line in lines] == [f"omnidaemon-{extra}"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheels"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMBERS)
def test_a_wheel_has_its_types_marker_its_licence_and_nothing_stray(name, wheels):
    module = module_of(MEMBERS[name])
    with zipfile.ZipFile(wheels[name]) as wheel:
        files = wheel.namelist()
    assert any(re.fullmatch(r"[^/]+\.dist-info/licenses/LICENSE", file) for file in files)
    tops = {file.split("/")[0] for file in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == ({module} if module else set())
    if module:
        assert f"{module}/py.typed" in files
        assert f"{module}/__init__.py" in files
    assert wheels[name].name.startswith(canonicalize_name(name).replace("-", "_") + "-")
