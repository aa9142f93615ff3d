"use strict";
// Draws the page's figures as they come into view, in the theme that the reader has. The figures
// and plotly's own script lie in the page, deflated and in base 85: nothing is fetched.

const ALPHABET =
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
const INK = "rgb(1,2,3)", FAINT = "rgb(4,5,6)"; // report/figures.py

function bytesOf(text) {
  const value = new Uint8Array(128);
  for (let i = 0; i < ALPHABET.length; i++) value[ALPHABET.charCodeAt(i)] = i;
  const missing = (5 - (text.length % 5)) % 5;
  const whole = text + "~".repeat(missing);
  const bytes = new Uint8Array((whole.length / 5) * 4);
  for (let at = 0, to = 0; at < whole.length; at += 5, to += 4) {
    let word = 0;
    for (let i = 0; i < 5; i++) word = word * 85 + value[whole.charCodeAt(at + i)];
    bytes[to] = word >>> 24; bytes[to + 1] = word >>> 16;
    bytes[to + 2] = word >>> 8; bytes[to + 3] = word;
  }
  return bytes.subarray(0, bytes.length - missing);
}

async function unpacked(id) {
  const packed = document.getElementById(id).textContent;
  const stream = new Blob([bytesOf(packed)]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream("deflate"))).text();
}

let plotly = null;
function loaded() {
  plotly ??= (async () => {
    const script = document.createElement("script");
    if (document.getElementById("plotly").textContent) {
      script.textContent = await unpacked("plotly");
      document.head.append(script);
    } else {
      await new Promise((done) => {
        script.src = "plotly.js" + location.search;
        script.onload = done;
        document.head.append(script);
      });
    }
  })();
  return plotly;
}
let figures = null;
const figuresRead = unpacked("figures").then((text) => { figures = JSON.parse(text); });

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(figure) {
  const text = JSON.stringify(figure).replaceAll(INK, style("--ink"));
  const { data, layout } = JSON.parse(text.replaceAll(FAINT, style("--line")));
  layout.hoverlabel = { bgcolor: style("--tint"), bordercolor: style("--line"),
                        font: { color: style("--ink") } };
  for (const [key, axis] of Object.entries(layout))
    if (/^[xy]axis/.test(key))
      Object.assign(axis, { fixedrange: matchMedia("(pointer: coarse)").matches });
  return { data, layout };
}

function draw(place) {
  const { data, layout } = themed(figures[place.dataset.figure]);
  Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
  if (place.dataset.drawn) return;
  place.dataset.drawn = "yes";
  place.on("plotly_click", (event) => {
    const point = event.points[0];
    const run = typeof point.customdata === "string" ? point.customdata : point.data.meta;
    place.dispatchEvent(new CustomEvent("run", { bubbles: true, detail: { run, point } }));
  });
}

addEventListener("run", ({ target, detail }) => {
  const prefix = target.closest(".pair > div:last-child") ? "b-" : target.closest(".pair") ? "a-" : "";
  const row = document.getElementById(`${prefix}run-${detail.run}`);
  if (!row) return;
  for (let at = row; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  location.hash = row.id;
});

const places = [...document.querySelectorAll(".plot[data-figure]")];
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) {
    seen.unobserve(target);
    Promise.all([loaded(), figuresRead]).then(() => draw(target));
  }
}, { rootMargin: "300px" });
for (const place of places) seen.observe(place);

const redraw = () => { for (const place of places) if (place.dataset.drawn) draw(place); };
document.getElementById("theme").addEventListener("click", () => {
  const dark = style("color-scheme") === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// What is printed was perhaps never in view. Folded parts stay folded, as on the screen.
if (places.length) (window.requestIdleCallback ?? setTimeout)(loaded);
addEventListener("beforeprint", () => {
  if (!window.Plotly || !figures) return;
  for (const place of places) if (place.offsetParent) draw(place);
});
matchMedia("print").addEventListener("change", () => { if (window.Plotly && figures) redraw(); });

// A link to a run opens what it is folded into.
function opened() {
  const row = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = row; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (row) row.scrollIntoView();
}
addEventListener("hashchange", opened);
opened();

// The numbers of a figure, a line a point. A cell that a spreadsheet would compute is quoted.
function csv(figure) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (/^[=+@-]/.test(text) && isNaN(text)) text = "'" + text;
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [["panel", "series", "x", "y", "value", "run"]];
  for (const place of figure.querySelectorAll(".plot")) {
    const { data, layout } = figures[place.dataset.figure];
    const panel = layout.title?.text ?? "";
    for (const trace of data) {
      const { x, y, z, customdata: run } = trace;
      if (z) z.forEach((row, i) => row.forEach((value, j) =>
        lines.push([panel, trace.name, x[j], y[i], value, ""])));
      else y.forEach((value, i) =>
        lines.push([panel, trace.name, x[i], value, "", run?.[i] ?? trace.meta]));
    }
  }
  return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

document.addEventListener("click", async ({ target }) => {
  if (!target.matches?.("button.csv")) return;
  await figuresRead;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(target.closest("figure"))], { type: "text/csv" }));
  link.download = `${target.closest("section")?.querySelector("h2")?.id || "figure"}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
});
