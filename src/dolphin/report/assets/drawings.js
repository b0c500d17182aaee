"use strict";
(function () {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  let palette = {};
  const drawnWidth = {};
  function readPalette() {
    const style = getComputedStyle(root);
    palette = {};
    for (const name of ["bg", "surface", "raised", "ink", "muted", "line", "grid", "accent", "accent-soft", "series", "trace", "good", "bad",
      "bad-soft", "warn", "imagined", "font"]) {
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
    const box = document.getElementById("plot-" + name), figure = report.figures[name];
    if (!box) { return; }
    const layout = painted(figure.layout), narrow = box.clientWidth < 560;
    layout.template = painted(report.template);
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: palette["@@line"], activecolor: palette["@@accent"] };
    drawnWidth[name] = box.clientWidth;
    layout.width = box.clientWidth;
    if (narrow) {
      layout.margin = { l: 44, r: 8, t: 20, b: 40 };
      if (layout.showlegend) { layout.legend = { font: { size: 10, color: palette["@@muted"] } }; }
    }
    if (window.matchMedia("(pointer: coarse)").matches) { layout.dragmode = false; }
    Plotly.react(box, painted(figure.data), layout, {
      displaylogo: false, displayModeBar: narrow ? false : "hover", showSendToCloud: false, plotlyServerURL: "",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    });
    if (!box.dataset.bound) { box.dataset.bound = "1"; watcher.observe(box); }
  }
  function drawAll() { readPalette(); Object.keys(report.figures).forEach(draw); }
  let settling = 0;
  const watcher = new ResizeObserver(() => {
    clearTimeout(settling);
    settling = setTimeout(() => {
      for (const name in drawnWidth) {
        if (Math.abs(document.getElementById("plot-" + name).clientWidth - drawnWidth[name]) > 1) { draw(name); }
      }
    }, 120);
  });
  document.getElementById("theme").addEventListener("click", () => {
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

  document.addEventListener("click", (event) => {
    const button = event.target.closest ? event.target.closest("button[data-copy]") : null;
    if (!button) { return; }
    const say = (done) => {
      button.textContent = done ? "copied" : "select it by hand";
      setTimeout(() => { button.textContent = "copy"; }, 1600);
    };
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(button.dataset.copy).then(() => say(true), () => say(false));
    } else { say(false); }
  });
  drawAll();
  root.dataset.ready = "yes";
})();
