(function () {
  try {
    var kept = localStorage.getItem("dolphin-theme");
    if (kept === "light" || kept === "dark") { document.documentElement.dataset.theme = kept; }
  } catch (e) { /* storage is off: follow the system */ }
})();
