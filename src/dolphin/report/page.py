"""The page: `render` builds it, `write` puts it on disk in one step.

Invariants:

1. Nothing is fetched. Style, script, data and the drawing library are inside the file, and its content policy
   forbids every request, so that a mistake here cannot make one.
2. Same data, same bytes: no clock, no chance, no machine name.
3. Text from the run is escaped wherever it stands: `esc` in markup, `json_for_script` in script elements.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dolphin.domain.errors import StoreError
from dolphin.report import figures as fig
from dolphin.report import sections
from dolphin.report.data import ReportData
from dolphin.report.groups import by_asset, by_bucket, by_hour, by_reason, legs_of
from dolphin.report.senses import senses_figures
from dolphin.report.text import esc

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)
#: Scan prices kept for the small drawing of one trade, and of all trades together.
_TRADE_PRICES_MAX = 121
_ALL_PRICES_MAX = 80_000


def plain(value: Any) -> Any:
    """The value as JSON knows it: numbers that are not finite become None, unknown things their text."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    return str(value)


def json_for_script(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (resources.files("dolphin.report") / "assets" / name).read_text(encoding="utf-8")


def _drawing_library() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _figures(data: ReportData) -> list[fig.Figure]:
    drawn: list[fig.Figure] = []
    if len(data.timestamp_ns):
        drawn += [fig.equity_figure(data), fig.signal_figure(data)]
        if data.lambdas:
            drawn.append(fig.lambda_figure(data))
        drawn += senses_figures(data.senses)
    if data.trades:
        drawn += [fig.waterfall_figure(legs_of(data.trades)), fig.lanes_figure(data.trades)]
    if data.closed:
        drawn += [
            fig.reason_figure(by_reason(data.closed)),
            fig.asset_figure(by_asset(data.closed)),
            fig.hour_figure(by_hour(data.closed)),
            fig.bucket_figure(by_bucket(data.closed)),
        ]
    return drawn


def _trade_prices(data: ReportData) -> dict[str, list[float | None]]:
    prices: dict[str, list[float | None]] = {}
    keep = min(_TRADE_PRICES_MAX, max(24, _ALL_PRICES_MAX // max(1, len(data.trades))))
    for trade in data.trades:
        values = (data.prices_of_trades or {}).get(trade.trade_id)
        if values is None or len(values) < 2:
            continue
        if len(values) > keep:
            values = values[np.linspace(0, len(values) - 1, keep).round().astype(np.int64)]
        prices[trade.trade_id] = [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]
    return prices


def embedded(data: ReportData) -> dict[str, Any]:
    """Everything that the page knows of the run: figures, trades, parameters, sources."""
    drawn = _figures(data)
    return {
        "title": data.title,
        "feed": data.feed,
        "set_name": data.set_name,
        "set_hash": data.set_hash,
        "direction": data.direction,
        "threshold": data.threshold,
        "extreme": data.extreme,
        "initial_capital": data.initial_capital,
        "n_scans": len(data.timestamp_ns),
        "summary": data.summary,
        "parameters": data.parameters,
        "provenance": data.provenance,
        "blocked": data.blocked,
        "notes": data.notes,
        "trades": [dataclasses.asdict(trade) for trade in data.trades],
        "prices": _trade_prices(data),
        "template": fig.template(),
        "figures": {f.name: {"data": f.data, "layout": f.layout, "label": f.label} for f in drawn},
    }


def render(data: ReportData) -> str:
    """The whole page as text.

    Parameters
    ----------
    data : ReportData
        Any run: without trades, with a position left open, with figures that do not exist (None).

    Returns
    -------
    str
        HTML that opens offline in a current browser, about 5 MB, most of it the drawing library.
    """
    content = embedded(data)
    labels = {name: str(figure["label"]) for name, figure in content["figures"].items()}
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n',
            f"<title>{esc(data.title)} · DOLPHIN</title>\n",
            f"<style>\n{_asset('page.css')}</style>\n",
            f"<script>{_asset('theme.js')}</script>\n</head>\n<body>\n",
            sections.body(data, labels),
            f'<script type="application/json" id="report-data">{json_for_script(content)}</script>\n',
            f"<script>{_drawing_library()}</script>\n",
            f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n",
        )
    )


def write(data: ReportData, path: Path | str) -> Path:
    """Render the page and put it at `path`: a reader sees the old file or the whole new one, never a part.

    Missing folders are made. Returns the path. Raises StoreError when the file cannot be written.
    """
    target = Path(path)
    text = render(data)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreError(
            f"{target}: the report cannot be written ({reason}); name a path that can be"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target
