"""The market of a system of services, as all of its processes see it: one universe, one source."""

from __future__ import annotations

import logging
from pathlib import Path

from dolphin.domain.codes import posture_code
from dolphin.domain.errors import UsageError
from dolphin.domain.params import ParameterSet, load_set
from dolphin.domain.symbols import universe_id
from dolphin.host.identity import Identity
from dolphin.market.feed import Feed
from dolphin.market.universe import DEFAULT_ASSETS, default_universe, read_universe, take_assets
from dolphin.services.home import SystemSettings

_log = logging.getLogger("dolphin.scanner")


def open_market(settings: SystemSettings) -> Feed:
    """The feed that the settings name, with its own stamps. Raises DolphinError."""
    if settings.feed == "recorded":
        from dolphin.market.sources import open_recorded

        if settings.path is None:
            raise UsageError("a recorded feed needs a path; give `dolphin up` a --path")
        universe = None if settings.universe is None else Path(settings.universe)
        return open_recorded(Path(settings.path), universe=universe, assets=settings.assets)
    if settings.feed == "binance":
        from dolphin.feeds.prices import BinancePrices

        # Not filled from klines: minutes are no bars, and a trader of a system would trade on them.
        live = BinancePrices(symbols_of(settings), base_url=settings.exchange, backfill=False)
        live.news = _log.warning
        return live
    from dolphin.market.synthetic import SyntheticFeed

    return SyntheticFeed(
        seed=settings.seed,
        days=None,
        edge_bps=settings.edge_bps,
        assets=DEFAULT_ASSETS if settings.assets is None else settings.assets,
    )


def symbols_of(settings: SystemSettings) -> tuple[str, ...]:
    """The universe of the settings: its file's first assets, or the packaged one's. Raises as its reader."""
    if settings.universe is None:
        return default_universe()[: settings.assets or DEFAULT_ASSETS]
    universe = read_universe(Path(settings.universe))
    return take_assets(universe, settings.assets, settings.universe)[0]


def parameters_of(settings: SystemSettings) -> tuple[str, ParameterSet]:
    """(name, set) of a system after the drift check, with overrides under a name that says so."""
    base = load_set(settings.set_name)
    if not settings.params:
        return settings.set_name, base
    return f"{settings.set_name}+{','.join(sorted(settings.params))}", base.with_values(settings.params)


def identity_of(settings: SystemSettings, feed: Feed) -> Identity:
    """What decides the decisions of a system; the trader's journal remembers it."""
    name, params = parameters_of(settings)
    return Identity(
        feed=settings.feed,
        source=feed.name,
        source_id=feed.source_id,
        universe_id=universe_id(feed.symbols),
        spectrum="certified",
        set_name=name,
        params=params,
        deployment=settings.deployment,
        vol_threshold=settings.vol_threshold,
        posture_when_unknown=posture_code(settings.posture_when_unknown),
    )
