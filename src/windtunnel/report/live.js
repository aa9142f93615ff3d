// What moves on the live page. Everything is put in as text.

const withToken = (path, query = new URLSearchParams()) => {
  const token = new URLSearchParams(location.search).get("token");
  if (token) query.set("token", token);
  return `${path}?${query}`;
};
const $ = (id) => document.getElementById(id);
const fill = (place, ...children) => place.replaceChildren(...children);
const ofLab = () => $("plan").dataset.lab; // what a command needs to find the lab
// What stands between backticks is code.
const prose = (text) => text.split("`").map((part, i) => made(i % 2 ? "code" : "span", part));
const made = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

async function look() {
  try {
    const { runs, figure } = await (await fetch(withToken("live.json"))).json();
    const heads = ["run", "name", "tokens", "loss", "speed", "left"];
    const row = (cells, tag) => {
      const line = document.createElement("tr");
      line.append(...cells.map((cell) => made(tag, cell)));
      return line;
    };
    $("now-says").textContent = runs.length
      ? `Runs that train now: ${runs.length}.` : "Nothing trains now.";
    fill($("now-runs"), ...(runs.length ? [row(heads, "th")] : []),
         ...runs.map((cells) => row(cells, "td")));
    const place = $("now-curves");
    place.style.height = figure ? "400px" : "0";
    if (figure) {
      await loaded();
      const { data, layout } = themed(figure);
      Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
    }
  } catch { $("now-says").textContent = "The server does not answer; it may have been stopped."; }
  setTimeout(look, 2000);
}
look();

let asked = 0;
async function replan() {
  const mine = ++asked;
  const query = new URLSearchParams();
  for (const [name, value] of new FormData($("plan"))) if (value.trim()) query.set(name, value);
  const options = [...query].map(([name, value]) => `--${name} ${value}`).join(" ");
  const answer = await fetch(withToken("plan.json", query));
  const plan = await answer.json();
  if (mine !== asked) return; // a later question is under way
  $("plan-command").textContent = `windtunnel plan ${options}${ofLab()}`;
  if (plan.error) {
    fill($("plan-says"), made("p", plan.error));
    if (answer.status === 202) setTimeout(replan, 500);
    return;
  }
  const short = (number) => Intl.NumberFormat("en", { notation: "compact",
    maximumSignificantDigits: 3 }).format(number).replace("K", "k"); // as the report has it
  const facts = document.createElement("dl");
  facts.className = "facts";
  const interval = (ends, show) => ends.map(show).join(" to ");
  const loss = (value) => value.toFixed(4);
  const told = {
    "parameters": short(plan.params), "tokens": short(plan.tokens),
    "loss, nats/token": loss(plan.loss), "half the time": interval(plan.interval50, loss),
    "nine times in ten": interval(plan.interval90, loss),
    "as good, within 0.5%": interval(plan.range_params, short),
    "batch, tokens": short(plan.batch_tokens), "learning rate": plan.lr.toPrecision(3),
    "hours": plan.training.hours === null ? "–" : plan.training.hours.toPrecision(3),
    "FLOPs": plan.flops.toExponential(2), "verdict": plan.go,
  };
  for (const [name, value] of Object.entries(told)) {
    const pair = document.createElement("div");
    const number = made("dd", value);
    number.dataset.of = name;
    pair.append(made("dt", name), number);
    facts.append(pair);
  }
  const flags = document.createElement("ul");
  flags.append(...plan.flags.map((flag) => {
    const line = made("li", "");
    line.append(made("b", flag.level), " ", ...prose(flag.text));
    return line;
  }));
  fill($("plan-says"), facts, flags);
}
$("plan").addEventListener("input", ({ target }) => {
  if (target.id === "budget") $("plan").elements.flops.value = (10 ** target.value).toPrecision(3);
  replan();
});
$("plan").addEventListener("submit", (event) => event.preventDefault());
replan();

addEventListener("run", ({ detail: { run, point } }) => {
  if (!run) return;
  const tokens = Math.round(point.x);
  $("branch-says").textContent = `To leave run ${run} at ${tokens.toLocaleString("en")} tokens:`;
  $("branch-command").textContent = `windtunnel branch ${run} --at ${tokens} --decay 10%${ofLab()}`;
});
