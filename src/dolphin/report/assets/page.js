"use strict";
(function () {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const MINUS = "\u2212", DASH = "\u2013";

  // ---- numbers and times, written as on the rest of the page -------------------------------------------------
  function number(x, decimals, signed) {
    if (x === null || x === undefined || !isFinite(x)) { return DASH; }
    const rounded = Number(x.toFixed(decimals)) + 0;
    const text = rounded.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    return (signed && rounded > 0 ? "+" : "") + text.replace("-", MINUS);
  }
  function price(x) {
    if (x === null || x === undefined || !isFinite(x)) { return DASH; }
    return x === 0 ? "0" : number(x, Math.min(10, Math.max(2, 5 - Math.floor(Math.log10(Math.abs(x))))));
  }
  // A nanosecond count has more digits than a number keeps; a millisecond is more than enough to show.
  function utc(ns) { return ns === null ? DASH : new Date(Math.floor(ns / 1e6)).toISOString().slice(0, 19).replace("T", " "); }
  const side = (t) => (t.direction < 0 ? "SHORT" : "LONG");
  const tone = (x) => (x > 0 ? "up" : x < 0 ? "down" : "");

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) { node.className = className; }
    if (text !== undefined) { node.textContent = text; }
    return node;
  }

  // ---- theme --------------------------------------------------------------------------------------------------
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // ---- drawings -------------------------------------------------------------------------------------------------
  let palette = {};
  const drawnWidth = {};
  function readPalette() {
    const style = getComputedStyle(root);
    palette = {};
    for (const name of ["bg", "surface", "raised", "ink", "muted", "line", "grid", "accent", "accent-soft", "series", "trace", "good", "bad",
      "bad-soft", "warn", "imagined", "lambda1", "lambda2", "lambda3", "lambda4", "heat-low", "heat-mid", "heat-high", "font"]) {
      palette["@@" + name.replace("-", "_")] = style.getPropertyValue("--" + name).trim();
    }
  }
  // Only figures pass through here, and in them a token is a whole string.
  function painted(value) {
    if (typeof value === "string") { return value.startsWith("@@") && value in palette ? palette[value] : value; }
    if (Array.isArray(value)) { return value.every((v) => typeof v === "number") ? value : value.map(painted); }
    if (value && typeof value === "object") {
      const copy = {};
      for (const key in value) { copy[key] = painted(value[key]); }
      return copy;
    }
    return value;
  }
  function draw(name) {
    const box = $("plot-" + name), figure = report.figures[name];
    if (!box) { return; }
    const layout = painted(figure.layout);
    layout.template = painted(report.template);
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: palette["@@line"], activecolor: palette["@@accent"] };
    const narrow = box.clientWidth < 560, traces = painted(figure.data);
    drawnWidth[name] = box.clientWidth;
    layout.width = box.clientWidth;
    if (narrow) {
      for (const trace of traces) { if (trace.meta && trace.meta.short_text) { trace.text = trace.meta.short_text; } }
      if (layout.xaxis.type === "date") { Object.assign(layout.xaxis, { nticks: 4, tickangle: 0 }); }
      layout.margin = { l: 40, r: 8, t: 20, b: 36 };
      if (layout.showlegend) { layout.legend = { font: { size: 10, color: palette["@@muted"] } }; }
    }
    if (window.matchMedia("(pointer: coarse)").matches) { layout.dragmode = false; }
    Plotly.react(box, traces, layout, {
      displaylogo: false, displayModeBar: narrow ? false : "hover",
      // The library would offer to upload the chart: off three times, for the run is nobody else's business.
      showSendToCloud: false, plotlyServerURL: "",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    });
    if (!box.dataset.bound) {
      box.dataset.bound = "1";
      watcher.observe(box);
      box.on("plotly_click", (event) => {
        const order = event.points.map((p) => p.customdata).find((c) => typeof c === "number");
        if (order !== undefined) { showTrade(order); }
      });
    }
  }
  function drawAll() { readPalette(); Object.keys(report.figures).forEach(draw); }
  // A new width is a new drawing: labels and legends differ on a narrow screen.
  let settling = 0;
  const watcher = new ResizeObserver(() => {
    clearTimeout(settling);
    settling = setTimeout(() => {
      for (const name in drawnWidth) {
        if (Math.abs($("plot-" + name).clientWidth - drawnWidth[name]) > 1) { draw(name); }
      }
    }, 120);
  });
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("dolphin-theme", root.dataset.theme); } catch (e) { /* not kept */ }
    drawAll();
  });
  system.addEventListener("change", () => { if (!root.dataset.theme) { drawAll(); } });

  // Paper is light and narrow, whatever the screen is.
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme || "";
    root.dataset.theme = "light";
    document.querySelectorAll(".plot").forEach((box) => { box.style.width = "680px"; });
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    if (before) { root.dataset.theme = before; } else { delete root.dataset.theme; }
    document.querySelectorAll(".plot").forEach((box) => { box.style.width = ""; });
    drawAll();
  });

  // ---- copy -------------------------------------------------------------------------------------------------------
  function fallbackCopy(text) {
    const area = make("textarea");
    area.value = text;
    area.style.position = "fixed";
    document.body.append(area);
    area.select();
    let done = false;
    try { done = document.execCommand("copy"); } catch (e) { done = false; }
    area.remove();
    return done;
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest ? event.target.closest("button[data-copy]") : null;
    if (!button) { return; }
    const say = (done) => {
      button.textContent = done ? "copied" : "select it by hand";
      setTimeout(() => { button.textContent = "copy"; }, 1600);
    };
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(button.dataset.copy).then(() => say(true), () => say(fallbackCopy(button.dataset.copy)));
    } else { say(fallbackCopy(button.dataset.copy)); }
  });

  // ---- trades table -----------------------------------------------------------------------------------------------
  const table = $("trade-table");
  const PAGE = 50;
  const state = { words: [], only: "all", key: "entry_ns", down: false, page: 0, all: false, open: new Set() };
  const trades = report.trades.map((t, i) => ({
    ...t, order: i,
    hay: [t.trade_id, t.asset, side(t), t.reason, t.bucket, t.bound, utc(t.entry_ns), utc(t.exit_ns), t.stale_price ? "stale" : ""].join(" ").toLowerCase(),
  }));

  function chosen() {
    const rows = trades.filter((t) => state.words.every((w) => t.hay.includes(w)) && (
      state.only === "all" || (state.only === "open" ? t.exit_ns === null : t.exit_ns !== null && (state.only === "win" ? t.net > 0 : t.net <= 0))));
    const key = state.key, sign = state.down ? -1 : 1;
    return rows.sort((a, b) => {
      const x = a[key], y = b[key];
      if (x === null || y === null) { return x === y ? a.order - b.order : x === null ? 1 : -1; }
      const way = typeof x === "string" ? (x < y ? -1 : x > y ? 1 : 0) : x - y;
      return way ? sign * way : a.order - b.order;
    });
  }

  const LANES = [["base", "base"], ["dc", "DC"], ["regime", "ACB"], ["ob", "OB"], ["esof", "EsoF"]];
  function lane(label, value, final) {
    const box = make("span", "lane" + (final ? " final" : ""));
    box.append(make("small", "", label), make("b", "", value));
    return box;
  }
  function facts(title, pairs) {
    const box = make("div"), list = make("dl", "facts");
    for (const [name, value, kind] of pairs) { list.append(make("dt", kind, name), make("dd", kind, value)); }
    box.append(make("h3", "", title), list);
    return box;
  }
  function spark(t, values) {
    const good = values.filter((v) => v !== null);
    const level = [t.entry_price, ...good], low = Math.min(...level), high = Math.max(...level), span = high - low || 1;
    const y = (v) => (4 + 88 * (1 - (v - low) / span)).toFixed(2);
    const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 300 96");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Price of " + t.asset + " from entry to exit, lowest " + price(low) + ", highest " + price(high));
    const line = document.createElementNS(space, "line");
    for (const [k, v] of [["x1", 0], ["x2", 300], ["y1", y(t.entry_price)], ["y2", y(t.entry_price)]]) { line.setAttribute(k, v); }
    const path = document.createElementNS(space, "path");
    let pen = "M";
    path.setAttribute("d", values.map((v, i) => {
      if (v === null) { pen = "M"; return ""; }
      const step = pen + (300 * i / (values.length - 1)).toFixed(1) + " " + y(v);
      pen = "L";
      return step;
    }).join(""));
    svg.append(line, path);
    const box = make("div");
    box.append(make("h3", "", "Price while held (dashed: entry)"), svg);
    return box;
  }
  function detail(t, columns) {
    const row = make("tr", "detail"), cell = make("td"), box = make("div", "detail-in");
    row.id = "detail-" + t.order;
    cell.colSpan = columns;
    const chain = make("div", "chain"), list = make("ol");
    LANES.forEach(([key, label], i) => {
      const item = make("li");
      item.append(lane(label, number(t.lanes[key], 3)), i < LANES.length - 1 ? "×" : "=");
      list.append(item);
    });
    const raw = make("li"), cap = make("li"), last = make("li");
    raw.append(lane("raw", number(t.raw, 3)), "→");
    cap.append(lane("cap, bound: " + t.bound, number(t.cap, 3)), "→");
    last.append(lane("leverage", number(t.leverage, 3) + "×", true));
    list.append(raw, cap, last);
    chain.append(make("h3", "", "Five lanes into one leverage"), list);
    box.append(chain, facts("Money, USDT", [
      ["price P&L at scan prices", number(t.price_pnl, 4, true)], ["slippage", number(-t.slippage, 4, true)],
      ["fees", number(-t.fees, 4, true)], ["OB edge, imagined", number(t.ob_edge, 4, true), "imagined"], ["net", number(t.net, 4, true), "sum"],
    ]), facts("Position", [
      ["side", side(t)], ["notional, USDT", number(t.notional, 2)], ["fraction of capital", number(100 * t.fraction, 2) + " %"],
      ["bucket", t.bucket], ["vel_div at entry", number(t.vel_div, 5)], ["price", t.stale_price ? "stale: judged on the last one" : "fresh"],
    ]), facts("Entry and exit", [
      ["entry", utc(t.entry_ns) + " UTC"], ["exit", t.exit_ns === null ? "still open" : utc(t.exit_ns) + " UTC"],
      ["bars", t.entry_bar + " to " + (t.exit_bar === null ? "now" : t.exit_bar) + " (" + t.bars_held + " held)"], ["reason", t.reason],
      ["entry price", price(t.entry_price)], ["exit, scan price", price(t.exit_scan_price)], ["exit, after slippage", price(t.exit_price)],
    ]));
    if (report.prices[t.trade_id]) { box.append(spark(t, report.prices[t.trade_id])); }
    cell.append(box);
    row.append(cell);
    return row;
  }
  function tableRow(t) {
    const row = make("tr", "row"), first = make("td"), toggle = make("button", "toggle");
    const entry = utc(t.entry_ns), exit = utc(t.exit_ns);
    const cells = [
      ["th", "", t.trade_id], ["td", "", t.asset], ["td", "opt below-1340", (t.direction < 0 ? "↓ " : "↑ ") + side(t)],
      ["td", "num net " + tone(t.net), number(t.net, 2, true)], ["td", "num opt below-960", number(t.leverage, 2) + "×"], ["td", "opt reason", null],
      ["td", "num opt", entry], ["td", "num opt below-960", t.exit_ns === null ? "open" : exit.slice(0, 10) === entry.slice(0, 10) ? exit.slice(11) : exit],
      ["td", "num opt below-1340", number(t.bars_held, 0)], ["td", "num opt below-1180", price(t.entry_price)], ["td", "num opt below-1180", price(t.exit_price)],
      ["td", "num opt below-1540", number(t.vel_div, 4)], ["td", "opt below-1540", t.bucket],
    ];
    toggle.type = "button";
    toggle.setAttribute("aria-expanded", String(state.open.has(t.order)));
    toggle.setAttribute("aria-controls", "detail-" + t.order);
    toggle.setAttribute("aria-label", "Details of trade " + t.trade_id);
    toggle.addEventListener("click", () => {
      if (state.open.delete(t.order)) { row.nextSibling.remove(); } else { state.open.add(t.order); row.after(detail(t, cells.length + 1)); }
      toggle.setAttribute("aria-expanded", String(state.open.has(t.order)));
    });
    first.append(toggle);
    row.append(first);
    for (const [tag, className, text] of cells) {
      const cell = make(tag, className);
      if (tag === "th") { cell.scope = "row"; }
      if (text === null) {
        cell.append(make("span", "tag", t.reason));
        if (t.stale_price) { cell.append(" ", make("span", "tag stale", "stale")); }
      } else { cell.textContent = text; }
      row.append(cell);
    }
    return state.open.has(t.order) ? [row, detail(t, cells.length + 1)] : [row];
  }
  function refresh() {
    const rows = chosen(), pages = Math.max(1, Math.ceil(rows.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const from = state.all ? 0 : state.page * PAGE, to = state.all ? rows.length : Math.min(rows.length, from + PAGE);
    const body = table.tBodies[0], shown = [];
    for (const t of rows.slice(from, to)) { shown.push(...tableRow(t)); }
    if (!rows.length) {
      const row = make("tr"), cell = make("td", "", "No trade matches.");
      cell.colSpan = table.tHead.rows[0].cells.length;
      row.append(cell);
      shown.push(row);
    }
    body.replaceChildren(...shown);
    const total = rows.reduce((sum, t) => sum + t.net, 0);
    $("trade-status").textContent = (rows.length === trades.length ? number(rows.length, 0) : number(rows.length, 0) + " of " + number(trades.length, 0)) +
      (trades.length === 1 ? " trade" : " trades") + ", net " + number(total, 2, true) + " USDT";
    $("page-now").textContent = rows.length ? number(from + 1, 0) + "\u2013" + number(to, 0) + " of " + number(rows.length, 0) : "";
    $("page-back").disabled = state.all || state.page === 0;
    $("page-next").disabled = state.all || state.page >= pages - 1;
    document.querySelector(".pager").hidden = trades.length <= PAGE;
    for (const head of table.querySelectorAll("th[aria-sort]")) {
      const mine = head.querySelector("button").dataset.key === state.key;
      head.setAttribute("aria-sort", mine ? (state.down ? "descending" : "ascending") : "none");
    }
  }
  function showTrade(order) {
    if (!table || !trades[order]) { return; }
    const id = trades[order].trade_id;
    $("trade-only").value = state.only = "all";
    $("trade-search").value = id;
    state.words = id.toLowerCase().split(/\s+/);
    state.page = 0;
    state.open.add(order);
    refresh();
    $("trades").scrollIntoView({ behavior: "smooth" });
  }
  function csv() {
    const keys = Object.keys(report.trades[0]).filter((k) => k !== "lanes");
    const head = [...keys, ...LANES.map(([k]) => "lane_" + k)];
    const field = (v) => {
      let text = v === null ? "" : String(v);
      if (typeof v === "string" && /^[=+\-@\t\r]/.test(text)) { text = "'" + text; }
      return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    };
    const lines = chosen().map((t) => [...keys.map((k) => (/_ns$/.test(k) ? (t[k] === null ? "" : utc(t[k])) : field(t[k]))), ...LANES.map(([k]) => t.lanes[k])].join(","));
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([head.join(",").replaceAll("_ns", "_utc") + "\n" + lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "trades.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  if (table) {
    $("trade-search").addEventListener("input", (event) => {
      state.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      state.page = 0;
      refresh();
    });
    $("trade-only").addEventListener("change", (event) => { state.only = event.target.value; state.page = 0; refresh(); });
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button.sort");
      if (!button) { return; }
      const key = button.dataset.key;
      if (state.key === key) { state.down = !state.down; } else { state.key = key; state.down = key === "net"; }
      state.page = 0;
      refresh();
    });
    $("page-back").addEventListener("click", () => { state.page -= 1; refresh(); });
    $("page-next").addEventListener("click", () => { state.page += 1; refresh(); });
    $("page-all").addEventListener("click", (event) => {
      state.all = !state.all;
      event.currentTarget.setAttribute("aria-pressed", String(state.all));
      event.currentTarget.textContent = state.all ? "Show pages" : "Show all";
      refresh();
    });
    $("trade-csv").addEventListener("click", csv);
    refresh();
  }

  // One drawing at a time, so that the page answers while they are made.
  readPalette();
  const waiting = Object.keys(report.figures);
  (function next() {
    const name = waiting.shift();
    if (name === undefined) { root.dataset.ready = "yes"; return; }
    draw(name);
    setTimeout(next, 0);
  })();
})();
