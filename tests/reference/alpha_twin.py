"""The whole alpha, written a second time from page 03: slow, readable, plain lists and floats.

Nothing here comes from `dolphin.alpha`, `dolphin.engine` or `dolphin.risk`; only the logarithm is shared, and
that one has its own proof against ball arithmetic. Words stand where the kernels carry codes. Numbered
comments name the sections of the page. `Twin.step_bar` returns the decision as a dictionary of the same names
as `Decision`.
"""

from __future__ import annotations

from typing import Any

from dolphin.kernel import plain
from dolphin.numerics.portable import log1p

STABLECOINS = {
    "USDCUSDT", "FDUSDUSDT", "TUSDUSDT", "BUSDUSDT", "DAIUSDT",
    "USDPUSDT", "USDEUSDT", "PYUSDUSDT", "USTCUSDT", "EURUSDT",
}  # fmt: skip


def clamp(x: float, a: float, b: float) -> float:
    return min(max(x, a), b)


# 1. Signal


def signal_ratio(vel_div: float, threshold: float, extreme: float) -> float:
    return clamp((threshold - vel_div) / (threshold - extreme), 0.0, 1.0)


# 2. Direction confirmation


def direction_confirmation(history: list[float], lookback: int, min_bps: float, d: int) -> tuple[str, float]:
    if len(history) < lookback + 1:
        return "NEUTRAL", 0.0
    p0 = history[-lookback - 1]
    p1 = history[-1]
    chg_bps = (p1 - p0) / p0 * 10000.0
    if chg_bps < -min_bps:
        return ("CONFIRM" if d == -1 else "CONTRADICT"), chg_bps
    if chg_bps > +min_bps:
        return ("CONTRADICT" if d == -1 else "CONFIRM"), chg_bps
    return "NEUTRAL", chg_bps


# 3. OB-2


def book_confidence(confidence: float, eff: float, persistence: float) -> float | None:
    """The new confidence; None when the book contradicts persistently."""
    if eff > 0.10:
        return confidence * (1 + min(0.15, eff * persistence * 0.5))
    if eff < -0.15 and persistence > 0.60:
        return None
    if eff < -0.10:
        return confidence * max(0.85, 1 - abs(eff) * persistence * 0.4)
    return confidence


# 4. Asset selection


def profile(last50: list[float], direction: int, relative: bool) -> dict[str, float]:
    r = [(last50[i + 1] - last50[i]) * direction for i in range(49)]
    if relative:
        r = [x / last50[0] for x in r]
    c = []
    total = 0.0
    for x in r:
        total = total + x
        c.append(total)
    mfe = max(max(c), 0.0)
    mae = abs(min(min(c), 0.0))
    efficiency = mfe / (mae + 1e-6)
    alignment = len([x for x in r if x > 0]) / 49
    mean = total / 49
    squares = 0.0
    for x in r:
        squares = squares + (x - mean) * (x - mean)
    noise = squares / 49
    latency = 50
    if mfe > 0:
        latency = next(i for i, x in enumerate(c, start=1) if x >= 0.10 * mfe)
    ars = 0.5 * plain(log1p)(efficiency) + 0.35 * alignment - 0.15 * noise * 1000
    return {"ars": ars, "noise": noise, "latency": latency, "alignment": alignment}


def depth_factor(quality: float) -> float:
    if quality > 1.5:
        return 1.10
    if quality > 1.0:
        return 1.05
    if quality < 0.3:
        return 0.90
    if quality < 0.5:
        return 0.95
    return 1.0


# 5. Sizing


def bucket_name(vel_div: float, threshold: float, extreme: float, d: int) -> int:
    middle = (threshold + extreme) / 2
    for number, edge in enumerate((1.5 * extreme, extreme, middle)):
        if (d == -1 and vel_div <= edge) or (d == +1 and vel_div >= edge):
            return number
    return 3


def bucket_boost(nets: list[float]) -> float:
    if len(nets) < 10:
        return 1.0
    wr = len([x for x in nets if x > 0]) / len(nets)
    if wr > 0.60:
        return 1.3
    if wr > 0.55:
        return 1.1
    if wr < 0.40:
        return 0.7
    if wr < 0.45:
        return 0.85
    return 1.0


def streak(nets: list[float]) -> float:
    if len(nets) < 5:
        return 1.0
    losses = len([x for x in nets[-5:] if not x > 0])
    return {0: 1.1, 1: 1.1, 2: 1.0, 3: 0.7, 4: 0.5, 5: 0.5}[losses]


# 7. OB-3


def market_lane(median_imbalance: float, agree: float, d: int) -> float:
    eff = d * median_imbalance
    if eff > 0.08 and agree > 0.70:
        return min(1.20, 1 + eff * agree)
    if eff < -0.08 and agree > 0.70:
        return max(0.85, 1 - abs(eff) * agree)
    return 1.0


class Twin:
    """The bar loop of section 10. `params` is the parameter set as a dictionary, `draws` the stream."""

    def __init__(
        self,
        params: dict[str, Any],
        symbols: list[str],
        draws: list[float],
        *,
        irp_steps: str = "absolute",
        vd_enabled: bool = False,
        tf_enabled: bool = False,
        tf_exhaust_ratio: float = 0.25,
        tf_flip_ratio: float = 0.25,
        proxy_mode: str = "none",
    ) -> None:
        self.p = params
        self.d = params["direction"]
        self.symbols = symbols
        self.draws = draws
        self.draws_used = 0
        self.relative = irp_steps == "relative"
        self.vd_enabled = vd_enabled
        self.tf_enabled = tf_enabled
        self.tf_exhaust_ratio = tf_exhaust_ratio
        self.tf_flip_ratio = tf_flip_ratio
        self.proxy_on = proxy_mode == "proxy"
        self.history: dict[str, list[float]] = {s: [] for s in symbols}
        self.vel_divs: list[float] = []
        self.bar_count = 0
        self.capital = params["initial_capital"]
        self.boost, self.beta, self.mc_scale = 1.0, 0.0, 1.0
        self.posture = "APEX"
        self.red = False
        self.mc_status = "ABSENT"
        self.acb_pending = False
        self.position: dict[str, Any] | None = None
        self.last_exit_bar = -1
        self.closed: list[dict[str, Any]] = []
        self.proxies: list[float] = []
        self.proxy_scale = 1.0
        self.day = ""
        self.day_capital = self.capital
        self.day_trades = 0

    # Between bars

    def begin_day(self, date: str, posture: str, boost: float, beta: float, mc_status: str) -> None:
        self.day = date
        self.boost, self.beta, self.mc_status = boost, beta, mc_status
        self.mc_scale = 0.5 if mc_status == "ORANGE" else 1.0
        self.red = mc_status == "RED"
        self.posture = posture
        self.day_capital, self.day_trades = self.capital, 0

    def end_day(self) -> dict[str, Any]:
        return {
            "date": self.day,
            "pnl": self.capital - self.day_capital,
            "capital": self.capital,
            "boost": self.boost,
            "beta": self.beta,
            "mc_status": self.mc_status,
            "trades": self.day_trades,
        }

    def set_posture(self, posture: str) -> None:
        self.posture = posture

    def update_acb_boost(self, boost: float, beta: float) -> None:
        if self.position is not None and self.boost >= 1.25 and boost < 1.10:
            self.acb_pending = True
        self.boost, self.beta = boost, beta

    def pre_bar_proxy_update(self, instability_50: float, v750_velocity: float) -> None:
        proxy = instability_50 - v750_velocity
        if not self.proxy_on or proxy != proxy:
            return
        self.proxies.append(proxy)
        del self.proxies[:-500]
        below = len([x for x in self.proxies if x < proxy])
        equal = len([x for x in self.proxies if x == proxy])
        p = (below + 0.5 * equal) / len(self.proxies)
        self.proxy_scale = clamp(1 + 0.4 * (p - 0.5), 0.8, 1.2)

    # 10. The bar

    def step_bar(
        self,
        bar_idx: int,
        vel_div: float,
        prices: dict[str, float],
        vol_regime_ok: bool,
        v50_vel: float,
        v750_vel: float,
        *,
        stale: set[str],
        books: dict[str, Any] | None,
        esof_mult: float,
        refusal: str | None,
    ) -> dict[str, Any]:
        p = self.p
        threshold, extreme = p["vel_div_threshold"], p["vel_div_extreme"]
        fresh = {s for s in self.symbols if prices[s] > 0 and s not in stale}
        for s in self.symbols:
            if prices[s] > 0:
                self.history[s].append(prices[s])
                if len(self.history[s]) > 500:
                    del self.history[s][:-200]
        s3 = signal_ratio(vel_div, threshold, extreme)
        s3 = s3 * s3 * s3
        regime = self.boost * self.mc_scale
        if self.beta > 0:
            regime = self.boost * (1.0 + self.beta * s3) * self.mc_scale
        self.bar_count += 1
        self.vel_divs = [*self.vel_divs, vel_div][-200:]

        out: dict[str, Any] = {"bar_idx": bar_idx, "action": "NONE", "vel_div": vel_div, "asset": ""}
        if self.position is not None:
            self._exit(out, bar_idx, vel_div, v50_vel - v750_vel, fresh, books)
        else:
            out["reason"] = self._entry(
                out,
                bar_idx,
                vel_div,
                vol_regime_ok,
                v50_vel - v750_vel,
                fresh,
                books,
                esof_mult,
                refusal,
                regime,
            )
        self.acb_pending = False
        out |= {
            "capital": self.capital,
            "posture": self.posture,
            "boost": self.boost,
            "beta": self.beta,
            "mc_scale": self.mc_scale,
            "proxy_scale": self.proxy_scale,
            "vol_ok": vol_regime_ok,
            "v50_velocity": v50_vel,
            "v750_velocity": v750_vel,
        }
        return out

    def _entry(
        self,
        out: dict[str, Any],
        bar_idx: int,
        vel_div: float,
        vol_regime_ok: bool,
        spread: float,
        fresh: set[str],
        books: dict[str, Any] | None,
        esof_mult: float,
        refusal: str | None,
        regime: float,
    ) -> str:
        """Enter or not; the word for why. Any but NO_SIGNAL means a signal that something stopped."""
        p, d = self.p, self.d
        threshold, extreme = p["vel_div_threshold"], p["vel_div_extreme"]
        if not (vel_div < threshold if d == -1 else vel_div > threshold):
            return "NO_SIGNAL"
        ratio = signal_ratio(vel_div, threshold, extreme)
        confidence = 0.50 + ratio * 0.40
        is_extreme = vel_div <= extreme if d == -1 else vel_div >= extreme
        out["confidence"] = confidence
        if not bar_idx > self.last_exit_bar:
            return "JUST_EXITED"
        if self.red:
            return "DAY_HALT"
        if self.posture not in ("APEX", "STALKER"):
            return "POSTURE_HALT"
        if not self.bar_count >= p["lookback"]:
            return "WARMING_UP"
        if not vol_regime_ok:
            return "VOL_GATE"
        if refusal is not None:
            return refusal
        if self.capital <= 0:
            return "NO_CAPITAL"

        asset = self._select(out, fresh, books)
        if asset is None:
            return "NO_ASSET"
        out["asset"] = asset
        history = self.history[asset]

        status = "NEUTRAL"
        if p["use_direction_confirm"]:
            status, out["dc_change_bps"] = direction_confirmation(
                history, p["dc_lookback_bars"], p["dc_min_magnitude_bps"], d
            )
        out["dc_status"] = status
        if status == "CONTRADICT" and p["dc_skip_contradicts"]:
            return "DC_REFUSED"
        dc = {"CONFIRM": p["dc_leverage_boost"], "CONTRADICT": p["dc_leverage_reduce"], "NEUTRAL": 1.0}[
            status
        ]

        if books is not None:
            heard = book_confidence(
                confidence, d * books["imbalance_ma5"][asset], books["persistence"][asset]
            )
            if heard is None:
                return "OB_REFUSED"
            out["confidence"] = heard

        # 5. Sizing
        s = 1.0 if is_extreme else ratio
        cubed = s * s * s if p["leverage_convexity"] == 3.0 else s ** p["leverage_convexity"]
        base = p["min_leverage"]
        if p["use_dynamic_leverage"]:
            base = p["min_leverage"] + cubed * (p["max_leverage"] - p["min_leverage"])
        bucket = bucket_name(vel_div, threshold, extreme, d)
        boost_mult = streak_mult = trend_mult = 1.0
        if p["use_alpha_layers"]:
            boost_mult = bucket_boost([t["net"] for t in self.closed if t["bucket"] == bucket])
            streak_mult = streak([t["net"] for t in self.closed])
            n = p["vd_trend_lookback"]
            vd_trend = self.vel_divs[-1] - self.vel_divs[-n] if len(self.vel_divs) >= n else 0.0
            towards = -d * vd_trend
            trend_mult = 1.3 if towards < -0.01 else 0.7 if towards > 0.01 else 1.0
        conf_mult = (0.70 if is_extreme else 0.55) / 0.95
        extreme_boost = 2.0 if is_extreme else 1.0
        base_frac = 0.02 + s * (p["fraction"] - 0.02)
        fraction = clamp(
            base_frac * conf_mult * extreme_boost * trend_mult * boost_mult * streak_mult, 0.02, p["fraction"]
        )

        # 6. Composition
        ob = 1.0
        if books is not None:
            ob = market_lane(books["median_imbalance"], books["agreement"], d)
        raw = base * dc * regime * ob * esof_mult
        lanes_cap = p["max_leverage"] * regime * ob * esof_mult
        caps = [(lanes_cap, "MAX_LEVERAGE_LANES"), (p["abs_max_leverage"], "ABS_MAX_LEVERAGE")]
        if self.posture == "STALKER":
            caps.append((2.0, "POSTURE_CAP"))
        cap, cap_word = min(caps, key=lambda pair: pair[0])
        leverage = max(p["min_leverage"], min(raw, cap))
        if min(raw, cap) < p["min_leverage"]:
            bound = "MIN_LEVERAGE"
        else:
            bound = cap_word if raw > cap else "RAW"
        notional = self.capital * fraction * leverage
        if self.proxy_on:
            notional = notional * self.proxy_scale

        price = history[-1]
        self.position = {
            "asset": asset,
            "entry_bar": bar_idx,
            "spread": spread,
            "adverse": 0,
            "record": {
                "lane_base": base,
                "lane_dc": dc,
                "lane_regime": regime,
                "lane_ob": ob,
                "lane_esof": esof_mult,
                "raw": raw,
                "cap": cap,
                "bound": bound,
                "leverage": leverage,
                "notional": notional,
                "fraction": fraction,
                "bucket": bucket,
                "entry_price": price,
            },
        }
        out |= self.position["record"]
        out |= {
            "action": "ENTER",
            "price": price,
            "scan_price": price,
            "tp": p["fixed_tp_pct"],
            "sl": p["stop_pct"],
            "max_hold": p["max_hold_bars"],
            "strength": s,
            "bucket_boost": boost_mult,
            "streak": streak_mult,
            "trend": trend_mult,
        }
        return "SIGNAL"

    def _select(self, out: dict[str, Any], fresh: set[str], books: dict[str, Any] | None) -> str | None:
        if not self.p["use_asset_selection"]:
            return "BTCUSDT" if "BTCUSDT" in fresh and self.history["BTCUSDT"] else None
        ranked = []
        for symbol in self.symbols:
            if len(self.history[symbol]) < 50:
                continue
            last50 = self.history[symbol][-50:]
            own = profile(last50, self.d, self.relative)
            other = profile(last50, -self.d, self.relative)
            kept = own if own["ars"] >= other["ars"] else other
            if kept["noise"] > 500 or kept["latency"] > 20 or kept["alignment"] < 0.20:
                continue
            if self.p["min_irp_alignment"] > 0 and kept["alignment"] < self.p["min_irp_alignment"]:
                continue
            score = kept["ars"]
            if books is not None:
                factor = depth_factor(books["depth_quality"][symbol])
                score = score / factor if score < 0 else score * factor
            ranked.append((symbol, "DIRECT" if kept is own else "INVERSE", score))
        ranked.sort(key=lambda row: -row[2])  # stable: ties keep the universe's order
        out["ranked"] = len(ranked)
        for place, (symbol, action, score) in enumerate(ranked, start=1):
            if action != "DIRECT" or symbol not in fresh:
                continue
            if self.p["exclude_stablecoins"] and symbol in STABLECOINS:
                continue
            if books is not None and books["depth_quality"][symbol] < 0.20:
                continue
            out["rank"], out["ars"] = place, score
            return symbol
        return None

    def _exit(
        self,
        out: dict[str, Any],
        bar_idx: int,
        vel_div: float,
        spread: float,
        fresh: set[str],
        books: dict[str, Any] | None,
    ) -> None:
        p, d = self.p, self.d
        position = self.position
        assert position is not None
        asset, record = position["asset"], position["record"]
        price, entry = self.history[asset][-1], record["entry_price"]
        pnl_pct = d * (price - entry) / entry
        bars_held = bar_idx - position["entry_bar"]
        tp, sl, max_hold = p["fixed_tp_pct"], p["stop_pct"], p["max_hold_bars"]

        # 8.5 Duress bends tp, sl and max_hold before any of them is tested
        if books is not None:
            eff = d * books["imbalance_ma5"][asset]
            cascade, stress = books["cascade_count"] > 0, books["regime_signal"] == 1
            if cascade:
                tp, max_hold = tp * 1.40, int(max_hold * 0.50)
            elif stress:
                sl = 0.10
                if pnl_pct > 0:
                    tp = tp * 0.60
                if eff < -0.10:
                    max_hold = int(max_hold * 0.40)
            elif books["regime_signal"] == -1 and eff > 0.15:
                max_hold = int(max_hold * 1.50)
            if books["withdrawal_velocity"][asset] < -0.20 and not cascade and not stress:
                max_hold = min(max_hold, int(p["max_hold_bars"] * 0.40))
                if pnl_pct > 0:
                    tp = tp * 0.75

        # 8.6 The two exits that no named set has on
        adverse = vel_div > +0.02 if d == -1 else vel_div < -0.02
        position["adverse"] = position["adverse"] + 1 if adverse else 0
        e = position["spread"]
        sign = (e > 0) - (e < 0)
        exhausted = abs(spread) <= self.tf_exhaust_ratio * abs(e)
        flipped = spread * sign <= -self.tf_flip_ratio * abs(e)

        reason = None
        if self.posture == "HIBERNATE":
            reason = "HIBERNATE_HALT"
        elif self.acb_pending:
            reason = "SUBDAY_ACB_NORMALIZATION"
        elif p["liquidation_guard"] and pnl_pct <= -0.95 / record["leverage"]:
            reason = "LIQUIDATION_GUARD"
        elif pnl_pct >= tp:
            reason = "FIXED_TP"
        elif pnl_pct <= -sl:
            reason = "STOP_LOSS"
        elif self.vd_enabled and position["adverse"] >= 3:
            reason = "VD_ADVERSE_TURN"
        elif self.tf_enabled and (exhausted or flipped):
            reason = "TREND_RECOVERY"
        elif bars_held >= max_hold:
            reason = "MAX_HOLD"

        out |= record
        out |= {
            "action": "HOLD",
            "reason": "NONE",
            "asset": asset,
            "price": price,
            "scan_price": price,
            "pnl_pct": pnl_pct,
            "tp": tp,
            "sl": sl,
            "max_hold": max_hold,
            "bars_held": bars_held,
            "stale_price": asset not in fresh,
        }
        if reason is None:
            return

        # 8 and 9. The way out
        forced = reason in ("STOP_LOSS", "LIQUIDATION_GUARD")
        slip = 0.0005 if forced else 0.0002
        if p["use_sp_slippage"] and not forced:
            slip = slip * (1 - p["sp_maker_exit_rate"])
        exit_price = price * (1 + slip) if d == -1 else price * (1 - slip)
        notional = record["notional"]
        entry_fee = exit_fee = 0.0
        if p["use_sp_fees"]:
            entry_fee = (
                0.0002 * p["sp_maker_entry_rate"] + 0.0005 * (1 - p["sp_maker_entry_rate"])
            ) * notional
            exit_fee = (0.0002 * p["sp_maker_exit_rate"] + 0.0005 * (1 - p["sp_maker_exit_rate"])) * notional
        edge = 0.0
        if p["use_ob_edge"] and books is not None:
            if books["depth_quality"][asset] > 0.5:
                edge = books["fill_probability"][asset] * p["ob_edge_bps"] * 1e-4
        elif p["use_ob_edge"]:
            draw = self.draws[self.draws_used]
            self.draws_used += 1
            if draw < p["ob_confirm_rate"]:
                edge = p["ob_edge_bps"] * 1e-4
        pnl_raw = d * (exit_price - entry) / entry
        pnl_raw += edge
        gross = pnl_raw * notional
        net = gross - entry_fee - exit_fee
        self.capital += net
        self.closed.append({"bucket": record["bucket"], "net": net})
        self.day_trades += 1
        self.last_exit_bar = bar_idx
        self.position = None
        out |= {
            "action": "EXIT",
            "reason": reason,
            "price": exit_price,
            "entry_fee": entry_fee,
            "exit_fee": exit_fee,
            "ob_edge": edge,
            "gross": gross,
            "net": net,
        }
