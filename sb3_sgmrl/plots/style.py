"""What all pictures share: bands, legends and axes of steps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import EngFormatter, MaxNLocator


class Figure(MatplotlibFigure):
    """A figure that a notebook shows, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


# inches of a legend entry without its text, and of a letter
_HANDLE, _LETTER = 0.6, 0.075


def draw_band(axis: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: Any) -> None:
    """
    Draw the band of a curve. Its edges show where bands of several colours overlap.

    :param axis: The axes to draw on
    :param x: The places, shape (n_points,); a single place gets a vertical line
    :param low: The lower ends, shape (n_points,)
    :param high: The upper ends, shape (n_points,)
    :param colour: The colour of the curve
    """
    if len(x) == 1:
        axis.vlines(x, low, high, color=colour, alpha=0.5, linewidth=3)
        return
    axis.fill_between(x, low, high, facecolor=to_rgba(colour, 0.1), edgecolor=to_rgba(colour, 0.5), linewidth=0.6)


def legend_below(figure: Figure, handles: Sequence[Any] | None = None) -> None:
    """
    Put a legend below all panels, in as many columns as fit into the width.

    :param figure: The figure, with the layout "constrained"
    :param handles: The entries; those of the first panel when None
    """
    handles = figure.axes[0].get_legend_handles_labels()[0] if handles is None else list(handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=n_columns(handles, figure.get_figwidth()), **_LEGEND)


def legend_below_panel(axis: Axes, handles: Sequence[Any], width: float) -> None:
    """
    Put a legend below the labels of a panel.

    :param axis: The panel
    :param handles: The entries
    :param width: The width of the panel in inches
    """
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "borderaxespad": 0}
    axis.legend(handles=handles, ncols=n_columns(handles, width), **place, **_LEGEND)


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": "small"}


def spread_panels(figure: Figure) -> None:
    """
    Keep the labels at the ends of neighbouring horizontal axes apart.

    :param figure: The figure, with the layout "constrained"
    """
    engine: Any = figure.get_layout_engine()
    engine.set(wspace=0.06)


def n_columns(handles: Sequence[Any], width: float) -> int:
    """
    Choose the number of columns of a legend, so that its rows are about equally long.

    :param handles: The entries
    :param width: The width to fit into, in inches
    :return: The number of columns, at least 1
    """
    return max(1, -(-len(handles) // n_rows_of_legend(handles, width)))


def n_rows_of_legend(handles: Sequence[Any], width: float) -> int:
    """
    Compute the number of rows of a legend.

    :param handles: The entries
    :param width: The width to fit into, in inches
    :return: The number of rows, at least 1
    """
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    most = max(1, int(width / (_HANDLE + _LETTER * longest)))
    return max(1, -(-len(handles) // most))


def show_steps(axis: Axes) -> None:
    """
    Label a horizontal axis of environment steps, in thousands and millions.

    :param axis: The panel
    """
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.set_xlabel("environment steps")
