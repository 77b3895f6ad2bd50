"""A table whose rows come and go under the eyes of whoever reads it: the cursor stays on its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable

from omium.server.terminal.words import Row

_ONE_BY_ONE = 50  # removals; more are quicker done anew


class Rows(DataTable[Text]):
    """Shows rows by their keys. `Chosen` says which row the cursor is on, also when that changes without a key being
    pressed; `Opened` that Enter was pressed on it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
    ]

    class Chosen(Message):
        def __init__(self, rows: Rows, key: str | None) -> None:
            super().__init__()
            self.rows = rows
            self.key = key

        @property
        def control(self) -> Rows:
            return self.rows

    class Opened(Chosen):
        pass

    def __init__(self, columns: Sequence[str], *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", cell_padding=1)
        self._names = tuple(columns)
        self._shown: dict[str, list[Text]] = {}
        self._chosen: str | None = None

    def on_mount(self) -> None:
        for name in self._names:
            self.add_column(Text(name.upper(), style="dim"), key=name)

    @property
    def key(self) -> str | None:
        """The row that the cursor is on."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return self.ordered_rows[self.cursor_row].key.value

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows in this order, changing as little as can be."""
        wanted = {key: list(cells) for key, cells in rows}
        kept = [key for key in self._shown if key in wanted]
        gone = [key for key in self._shown if key not in wanted]
        place, before = self.cursor_row, self.key
        if [*wanted][: len(kept)] != kept or len(gone) > _ONE_BY_ONE:
            self.clear()
            self._shown = {}
            gone = []
        for key in gone:
            self.remove_row(key)
            del self._shown[key]
        for key, cells in wanted.items():
            shown = self._shown.get(key)
            if shown is None:
                self.add_row(*cells, key=key)
            else:
                for name, old, new in zip(self._names, shown, cells, strict=True):
                    if old != new or old.style != new.style:
                        self.update_cell(key, name, new, update_width=True)
        self._shown = wanted
        if before in wanted and self.key != before:
            self.move_cursor(row=self.get_row_index(before), animate=False)
        elif before not in wanted and self.row_count:
            self.move_cursor(row=min(place, self.row_count - 1), animate=False)
        self._choose()

    def go_to(self, key: str) -> bool:
        """Put the cursor on a row; False if it is not there."""
        if key not in self._shown:
            return False
        self.move_cursor(row=self.get_row_index(key), animate=False)
        self._choose()
        return True

    def _choose(self) -> None:
        if self.key != self._chosen:
            self._chosen = self.key
            self.post_message(self.Chosen(self, self._chosen))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._choose()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.post_message(self.Opened(self, event.row_key.value))
