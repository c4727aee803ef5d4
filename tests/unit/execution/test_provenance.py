"""Tests of provenance: it names code, versions and machine, and never stops a run."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import pytest

import plexp
from plexp.execution import provenance as module
from plexp.execution.provenance import provenance


def git(folder: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout with one commit, which plexp takes for its own."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "plugin.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("outputs\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--no-verify", "-m", "first")
    monkeypatch.setattr("plexp.execution.provenance.CHECKOUT", tmp_path)
    return tmp_path


def test_versions_and_machine_are_tags() -> None:
    tags = provenance()
    assert tags["version.plexp"] == plexp.__version__
    assert tags["version.python"] == platform.python_version()
    for package in module.PACKAGES:
        assert tags[f"version.{package}"][0].isdigit()
    assert {"host.name", "host.cpu", "host.cores", "host.memory_gb", "host.platform"} <= tags.keys()
    assert int(tags["host.cores"]) >= 1
    assert 0.1 < float(tags["host.memory_gb"]) < 100_000
    assert all(isinstance(value, str) and value for value in tags.values())


def test_a_clean_checkout_gives_its_commit(checkout: Path) -> None:
    (checkout / "outputs").mkdir()
    (checkout / "outputs" / "ignored").touch()
    tags = provenance()
    assert tags["git.commit"] == git(checkout, "rev-parse", "HEAD")
    assert tags["git.dirty"] == "false"


@pytest.mark.parametrize("name", ["plugin.py", "new_plugin.py"])
def test_a_changed_or_new_file_makes_the_checkout_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("x = 2\n")
    assert provenance()["git.dirty"] == "true"


def test_git_variables_of_another_checkout_are_ignored(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert provenance()["git.commit"] == git(checkout, "rev-parse", "HEAD")


def test_an_installed_plexp_uses_the_checkout_of_the_current_folder(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plexp.execution.provenance.CHECKOUT", None)
    monkeypatch.chdir(checkout)
    assert provenance()["git.commit"] == git(checkout, "rev-parse", "HEAD")


def test_without_a_commit_there_are_no_git_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plexp.execution.provenance.CHECKOUT", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert not {"git.commit", "git.dirty"} & provenance().keys()
    git(tmp_path, "init", "--quiet")
    assert not {"git.commit", "git.dirty"} & provenance().keys()


def test_without_git_the_other_tags_are_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tags = provenance()
    assert "git.commit" not in tags
    assert "version.torch" in tags


def test_a_git_that_hangs_is_abandoned(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(module, "GIT_SECONDS", 0.2)
    start = time.perf_counter()
    assert "git.commit" not in provenance()
    assert time.perf_counter() - start < 30


def test_tags_that_cannot_be_determined_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise OSError("no /proc here")

    monkeypatch.setattr(module, "_cpu", fail)
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    tags = provenance()
    assert "host.cpu" not in tags and "version.no-such-package" not in tags
    assert "version.torch" in tags and "host.name" in tags
