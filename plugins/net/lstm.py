"""Recurrent networks with long short-term memory."""

from __future__ import annotations

from typing import ClassVar

from plexp.plugins.net.gru import GRU

from plexp import Core, LSTMCore, register


@register("net", "lstm")
class LSTM(GRU):  # type: ignore[misc]
    """Long short-term memory in place of the gated recurrent unit of net=gru, with the same parameters."""

    core: ClassVar[type[Core]] = LSTMCore
    name: ClassVar = "lstm"
