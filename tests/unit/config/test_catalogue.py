"""Tests of `plexp plugins`: the list of plugins, and the description of one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from plexp.cli.main import main
from plexp.config import catalogue, config_files, registry
from plexp.config.paths import CONF
from plexp.errors import ConfigError
from tests.support import forks

CONFIGS = [(group, file.stem) for group in registry.GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plugins", *arguments]) == 0
    output = capsys.readouterr()
    assert not output.err
    return output.out


def test_the_overview_lists_every_config_with_a_line_about_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    for group, option in CONFIGS:
        section = text[text.index(f": {group}=") :]
        line = re.search(rf"^ +{option} +(\S.*)$", section, re.M)
        assert line, f"{group}={option}"
    for title in ("algorithms", "advantage estimators", "networks", "environments", "callbacks"):
        assert title in text
    assert "Proximal Policy Optimization" in text and "LunarLander-v3, continuous=true" in text


def test_the_overview_imports_neither_plugins_nor_torch() -> None:
    code = (
        "import sys; from plexp.config import catalogue; catalogue.overview();"
        "print([m for m in sys.modules if m.startswith('plexp.plugins.') or m in ('torch', 'mlflow', 'gymnasium')])"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) > len(CONFIGS) and lines[-1] == "[]"


@pytest.mark.parametrize(("group", "option"), CONFIGS)
def test_a_description_shows_every_parameter_with_value_type_and_comment(
    group: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, f"{group}/{option}")
    section = f"callbacks.{option}" if group == "callbacks" else group
    assert (f"callbacks=[{option}]" if group == "callbacks" else f"{group}={option}") in text
    cls = registry.find(group, config_files.values(group, option)["plugin"])
    for parameter, annotation in registry.parameters(cls).items():
        line = next(line for line in text.splitlines() if f"{section}.{parameter}=" in line)
        assert registry.describe_type(annotation) in line, parameter
    for bracket in re.findall(r"\[[^\]\n]*\]", (cls.__doc__ or "").partition("Args:")[0]):
        assert bracket in text, "square brackets are not taken for markup"


def test_a_description_includes_the_values_of_included_configs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ppo = printed(capsys, "ppo")
    assert "algo=ppo" in ppo and "plugins/algo/ppo.py" in ppo and "Schulman et al. 2017" in ppo
    assert re.search(r"algo\.clip_eps=0\.2 .*float > 0 and < 1.*\n +ε in eq\. 7", ppo)
    assert re.search(r"algo\.learning_rate=.*\n +Adam's step size", ppo), "a comment of the config that it includes"
    assert "algo.target_kl=null" in ppo and "algo.anneal_clip=false" in ppo
    assert "algo.learning_rate=1e-3" in ppo or "algo.learning_rate=0.001" in ppo
    lander = printed(capsys, "lunarlander_continuous")
    assert "env.id=LunarLander-v3" in lander and "env.gamma=0.999" in lander and "env.num_envs=8" in lander
    assert "continuous" in lander and "environments side by side in training" in lander
    assert "advantage.gae_lambda=1.0" in printed(capsys, "gae_lambda1")
    assert "algo.critic_learning_rate=1e-3" in printed(capsys, "actor_critic")


@pytest.mark.parametrize(
    ("name", "remedy"), [("ppoo", "did you mean ppo?"), ("algo/gae", "did you mean gae?"), ("zzz", "there are ")]
)
def test_an_unknown_name_is_refused_with_a_suggestion(
    name: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError):
        catalogue.describe(name)
    assert main(["plugins", name]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"plugin={name}: there is no such plugin; {remedy}")
    assert len(output.err.splitlines()) == 1 and not output.out


def test_plugins_in_the_current_folder_are_found(tmp_path: Path) -> None:
    """Add `plugins/algo/mine.py` and `conf/algo/mine.yaml` without editing plexp."""
    for kind, suffix, old, new in (
        ("plugins", "py", '"algo", "ppo"', '"algo", "mine"'),
        ("conf", "yaml", "plugin: ppo", "plugin: mine"),
    ):
        (tmp_path / kind / "algo").mkdir(parents=True)
        text = (CONF.parent / kind / "algo" / f"ppo.{suffix}").read_text()
        (tmp_path / kind / "algo" / f"mine.{suffix}").write_text(text.replace(old, new))

    def plexp(*arguments: str) -> str:
        done = forks.run(arguments, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    described = plexp("plugins", "mine")
    assert "algo=mine" in described and "algo.clip_eps=0.2" in described
    composed = plexp("algo=mine", "algo.clip_eps=7", "--cfg", "job")
    assert "plugin: mine" in composed and "clip_eps: 7" in composed
    assert plexp("algo=min") == "algo=min: there is no such option; did you mean mine?\n"
