"""Questions to the person who sits there. Escape always leads back without anything done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static, TextArea
from textual.widgets.option_list import Option

from omium.orchestration.errors import OmiumError
from omium.server.commands.console import safe


class _Dialog(ModalScreen[Any]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back"),
        Binding("pagedown", "down", show=False),
        Binding("pageup", "up", show=False),
    ]

    def action_back(self) -> None:
        self.dismiss(None)

    def action_down(self) -> None:
        self.query_one("#about", VerticalScroll).scroll_page_down(animate=False)

    def action_up(self) -> None:
        self.query_one("#about", VerticalScroll).scroll_page_up(animate=False)


class Ask(_Dialog):
    """One thing to confirm, with a word about it. Gives that word (maybe empty), or None for no."""

    def __init__(self, title: str, about: Text, verb: str, word: str) -> None:
        super().__init__()
        self._title = title
        self._about = about
        self._verb = verb
        self._word = word

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(safe(self._title), classes="title", markup=False)
            with VerticalScroll(id="about", can_focus=False):
                yield Static(self._about, markup=False)
            yield Input(placeholder=self._word, max_length=16_000)
            yield Static(f"Enter: {safe(self._verb)}   Esc: back   PgUp/PgDn: read", classes="hint", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value.strip())


class Choose(_Dialog):
    """One of some options; None for none."""

    def __init__(self, title: str, about: Text, options: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._about = about
        self._options = list(options)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(safe(self._title), classes="title", markup=False)
            with VerticalScroll(id="about", can_focus=False):
                yield Static(self._about, markup=False)
            yield OptionList(*(Option(Text(safe(one))) for one in self._options), markup=False)
            yield Static("Enter: choose   Esc: back   PgUp/PgDn: read", classes="hint", markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._options[event.option_index])


class Edit(_Dialog):
    """JSON to change. Gives (value, feedback), or None. `plan`: any JSON will do, otherwise an object."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "done", "use this", priority=True)]

    def __init__(self, title: str, text: str, *, plan: bool) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._plan = plan

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog editor"):
            yield Static(safe(self._title), classes="title", markup=False)
            yield TextArea(self._text, tab_behavior="focus", show_line_numbers=True)
            yield Input(placeholder="a word to the agents that go on from here (may stay empty)", max_length=16_000)
            yield Static("", id="wrong", markup=False)
            yield Static("Ctrl+S: do this instead   Tab: feedback   Esc: back", classes="hint", markup=False)

    def on_mount(self) -> None:
        self.query_one(TextArea).focus()

    def action_up(self) -> None:
        self.query_one(TextArea).action_cursor_page_up()

    def action_down(self) -> None:
        self.query_one(TextArea).action_cursor_page_down()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_done()

    def action_done(self) -> None:
        try:
            value = typed(self.query_one(TextArea).text, plan=self._plan)
        except OmiumError as error:
            self.query_one("#wrong", Static).update(Text(safe(error.message)))
            return
        self.dismiss((value, self.query_one(Input).value.strip()))


def typed(text: str, *, plan: bool) -> Any:
    """The value that was typed. Raises `invalid_argument`."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise OmiumError("invalid_argument", f"this is not JSON: {str(error)[:200]}") from None
    if not plan and not isinstance(value, dict):
        raise OmiumError("invalid_argument", "arguments are an object: {...}")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Help(_Dialog):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("question_mark,q,enter", "back", show=False)]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("Keys", classes="title", markup=False)
            with VerticalScroll(id="about"):
                yield Static(KEYS, markup=False)
            yield Static("Esc: back", classes="hint", markup=False)


KEYS = """\
1 2 3 4 5      approvals, runs, processes, alerts, log
up down        move; PgUp PgDn Home End too
Tab            between a list and what stands below it
t              light or dark
?              these keys
q              leave; runs go on

Approvals
a  r           approve, reject: asks for a word, Enter does it
m              change the arguments or the plan, then approve
Enter, o       all options of the question
g              go to its run

Runs
/              filter by id, workflow or title; Esc ends it
Enter          open a run: nodes, the reason of a failure
p  u  c        pause, resume, cancel, after a question
l              the log of this run only

Log
Space          hold and go on
l              all runs again
"""
