// Shows what comes from /news. Whatever comes is shown as text and never as markup.
"use strict";

const OLD = 10; // seconds after which what was found counts as out of date
const SILENT = 5; // seconds without a word after which the connection counts as lost
const MARKS = { started: "●", progress: "·", done: "✓", failed: "✗", undone: "↩", "undo-failed": "✗", leftover: "!", unchanged: "=" };
const HEIGHT = 120; // of the plot, in pixels
const SECONDS = Number(document.body.dataset.seconds);
const $ = (id) => document.getElementById(id);

let state = null;
let news = null; // the last event
let heard = 0; // when it came
let action = null;
let busy = false; // a plan is being asked for, or an action begun
let stream = null;

function make(name, attributes, ...children) {
  const svg = ["rect", "line", "text"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false && child !== "").map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

const fill = (id, ...children) => $(id).replaceChildren(...children.filter(Boolean));
const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };

function when(moment) {
  const at = new Date(moment);
  if (!moment || Number.isNaN(at.getTime())) return String(moment ?? "");
  return at.toLocaleString("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: "UTC" });
}

const time = (moment) => make("time", { datetime: String(moment ?? "") }, when(moment));
const readable = (text) => text.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00/, when);
const short = (text) => { const [line] = text.split("\n"); return line.length > 120 ? `${line.slice(0, 119)}…` : line; };
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const seconds = (value) => `${value < 10 && !Number.isInteger(value) ? value.toFixed(2) : value < 99.5 ? value.toFixed(0) : `${Math.floor(Math.round(value) / 60)} min ${Math.round(value) % 60}`} s`;
const ms = (value) => (value === null ? "–" : `${value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en")} ms`);
const colour = (name) => (["blue", "green"].includes(name) ? name : "unknown");

// The connection.

function connect() {
  stream?.close();
  stream = new EventSource("/news");
  stream.onmessage = (message) => {
    news = JSON.parse(message.data);
    heard = performance.now();
    if (news.state) { state = news.state; showState(); }
    if (news.action) { action = news.action; showAction(); }
    showTraffic(news.traffic);
    showHead();
  };
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) wonder(); // it does not try again by itself
    showHead();
  };
}

async function wonder() {
  // Was the connection refused because we are not known any more?
  try {
    const response = await fetch("/", { method: "HEAD", redirect: "manual" });
    if (response.type === "opaqueredirect") { location.assign("/login"); return; }
  } catch { /* nobody is there; we try again */ }
  setTimeout(connect, 2000);
}

setInterval(() => {
  showHead();
  if (heard && performance.now() - heard > 3000 * SILENT && stream.readyState === EventSource.OPEN) { heard = performance.now() - 1000 * SILENT; connect(); }
}, 500);

// What is true.

function showHead() {
  const lost = heard > 0 && (performance.now() - heard) / 1000 > SILENT || (stream.readyState !== EventSource.OPEN && heard > 0);
  const error = news?.error;
  const old = news && news.age > OLD;
  document.body.classList.toggle("is-stale", Boolean(lost || error || old));
  document.body.classList.toggle("is-lost", Boolean(lost)); // else the traffic is still what it is
  let words = null;
  if (lost) words = ["The connection to the dashboard is lost. What you see is out of date; it tries again by itself.", ""];
  else if (error) words = [`What you see is out of date: ${short(error)}`, news.hint ? `Next: ${news.hint}` : ""];
  else if (old) words = ["What you see is out of date: the engine has not answered for some seconds.", ""];
  const text = words ? words.join("") : "";
  if ($("notice").dataset.text !== text) {
    $("notice").dataset.text = text;
    $("notice").hidden = !words;
    fill("notice", words && make("div", { class: "why failed" }, make("p", {}, words[0]), words[1] && make("p", { class: "soft" }, words[1])));
  }
  showPulse(lost ? "lost" : error || old ? "old" : "");
}

function showPulse(trouble) {
  const rollback = state?.rollback.ready ? `A rollback to ${state.rollback.release} is ready.` : "No rollback is possible.";
  const late = news ? news.traffic.bars.slice(-10) : [];
  const failed = late.reduce((sum, counts) => sum + counts.at(-1), 0);
  let kind = "done", mark = "✓", words = `It serves. ${rollback}`;
  if (trouble) [kind, mark, words] = ["failed", "!", trouble === "lost" ? "Connection lost" : state ? `Out of date, by ${seconds(Math.round(news.age))}` : "Nothing is known yet"];
  else if (!state) [kind, mark, words] = ["unchanged", "·", "Looking for the first time"];
  else if (state.lock) [kind, mark, words] = ["started", "●", `A run is under way: ${readable(state.lock)}`];
  else if (state.unfinished) [kind, mark, words] = ["undone", "!", `The run ${state.unfinished} ended before its commit. ${state.next ? `Next: ${state.next}` : ""}`];
  else if (!state.live) [kind, mark, words] = ["unchanged", "·", state.slots.length ? "The proxy serves nothing" : "Nothing is deployed"];
  else if (!state.proxy.running) [kind, mark, words] = ["failed", "!", "The proxy does not run"];
  else if (failed) [kind, mark, words] = ["failed", "!", `Requests fail: ${failed} in the last 10 seconds`];
  else if (state.live.replicas.running < state.live.replicas.wanted) [kind, mark, words] = ["undone", "!", "Not all replicas run"];
  else if (state.next) [kind, mark, words] = ["done", "✓", `It serves. Next: ${state.next}`];
  $("pulse").className = `result ${kind}`;
  say($("pulse").querySelector("b"), mark);
  say($("pulse").querySelector("span"), words);
  setButtons();
}

function figure(name, value, small, bad) {
  return make("div", {}, make("dt", {}, name), make("dd", bad ? { class: "bad" } : {}, value, small && make("small", {}, small)));
}

function showState() {
  const { live, rollback, proxy } = state;
  const headline = live ? `${live.release} is live` : "Nothing is live";
  say($("headline"), headline);
  document.title = `${document.body.dataset.service}: ${headline}`;
  fill("figures",
    live && figure("Live colour", live.colour, make("span", {}, "since ", time(live.since))),
    live && figure("Replicas", `${live.replicas.running} of ${live.replicas.wanted}`, "running", live.replicas.running < live.replicas.wanted),
    state.lock ? figure("Rollback", "–", "known after the run") : figure("Rollback", rollback.ready ? `to ${rollback.release}` : "not possible", rollback.ready ? `ready: ${rollback.why}` : rollback.why),
    figure("Proxy", proxy.kind, proxy.running ? `${proxy.version}, switched ${proxy.switch}` : "does not run", !proxy.running && live),
  );
  fill("slots", ...["blue", "green"].map((name) => card(name, state.slots.find((slot) => slot.colour === name))));
  showHosts();
  showRuns();
}

function card(name, slot) {
  if (!slot) return make("article", { class: `card empty ${name}` }, make("header", {}, make("span", {}, name), make("span", {}, "idle")), make("p", {}, "Nothing stands here."));
  const role = slot.role || (state.lock ? "not live, a run is under way" : "not live");
  return make("article", { class: `card ${name}` },
    make("header", {}, make("span", {}, name), make("span", { class: "role" }, role)),
    make("h3", {}, slot.release),
    make("p", {}, `${slot.running} of ${slot.wanted} replicas running`),
    make("ul", {}, ...slot.replicas.map((replica) => make("li", {},
      make("span", { class: replica.running ? "done" : "bad", "aria-hidden": "true" }, replica.running ? "✓" : "✗"),
      `${replica.name}: ${replica.running ? "running" : replica.status || "ended"}${replica.restarts ? `, ${replica.restarts} restarts` : ""}`))),
    make("p", { title: slot.digest }, slot.image, slot.digest && ` · ${slot.digest.slice(0, 19)}`));
}

function showHosts() {
  const { proxy, vips } = state;
  const rows = [];
  for (const host of state.hosts) rows.push([`Host ${host.name}`, make("span", { class: host.behind ? "bad" : "" }, onHost(host))]);
  rows.push(["Proxy", `${proxy.kind} ${proxy.version || ""} ${proxy.running ? "runs" : "does not run"}, switched ${proxy.switch}`]);
  rows.push(["Address", proxy.address]);
  if (proxy.edits) rows.push(["Edited", "A person has changed the proxy's files; a deploy does not write over that by itself."]);
  for (const vip of vips) rows.push([vips.length > 1 ? `VIP on ${vip.host}` : "VIP", vip.error || onVip(vip)]);
  rows.push(["Lock", state.lock ? `held by ${readable(state.lock)}` : "free"]);
  fill("hosts", ...rows.flatMap(([name, words]) => [make("dt", {}, name), make("dd", {}, words)]));
}

function onHost(host) {
  const words = [host.live ? `${host.live} is live${host.colour ? ` (${host.colour})` : ""}` : "nothing is live"];
  if (host.replicas) words.push(`${host.replicas.running} of ${host.replicas.wanted} replicas running`);
  if (host.proxy) words.push(host.proxy);
  if (host.behind) words.push(`behind: ${host.behind}`);
  return words.join(", ");
}

function onVip(vip) {
  const words = [`${vip.address} ${vip.held ? "is held here" : "is not held here"} (${vip.interface})`];
  words.push(`Keepalived ${vip.exists ? (vip.running ? "runs" : "does not run") : "is not there"}`);
  if (vip.node) words.push(`node ${vip.node} of priority ${vip.priority}`);
  if (vip.state) words.push(vip.state);
  if (vip.exists && !vip.current) words.push("its file is not what the settings want");
  if (vip.complaint) words.push(`it says: ${vip.complaint}`);
  return words.join(", ");
}

function showRuns() {
  const rows = state.runs.map((run) => {
    if (run.damaged) return make("li", {}, make("span", { class: "mark bad", "aria-hidden": "true" }, "!"), make("span", { class: "what" }, `${run.run} is damaged`));
    const took = run.seconds === null ? "" : `in ${seconds(run.seconds)}`;
    const saw = run.requests ? `${run.failed ? run.failed.toLocaleString("en") : "none"} of ${run.requests.toLocaleString("en")} requests failed` : "";
    return make("li", {},
      make("span", { class: `mark ${Object.hasOwn(MARKS, run.result) ? run.result : "failed"}`, "aria-hidden": "true" }, MARKS[run.result] ?? "✗"),
      make("span", { class: "what" }, `${run.action} ${run.from ?? "nothing"} → ${run.to}: ${run.result}`),
      make("a", { href: `/runs/${encodeURIComponent(run.run)}`, "aria-label": `Report of ${run.action} ${run.from ?? "nothing"} → ${run.to}, ${run.run}` }, "Report"),
      make("span", { class: "how" }, time(run.started), [took, saw, run.who].filter(Boolean).map((words) => ` · ${words}`).join("")),
      run.reason && make("span", { class: "how" }, String(run.reason).split("\n")[0]));
  });
  fill("runs", ...(rows.length ? rows : [make("li", {}, make("span"), make("span", { class: "how" }, "No run is kept yet."))]));
}

// The traffic.

function showTraffic(traffic) {
  const width = 100 / SECONDS;
  const top = traffic.rate;
  const kinds = [...traffic.releases.map((each) => colour(each.colour)), "failed"];
  const marks = [];
  for (const [y, words] of [[0, top], [HEIGHT, 0]]) {
    marks.push(make("line", { class: y ? "ground" : "grid", x1: 0, x2: "100%", y1: y, y2: y }));
    marks.push(make("text", { x: -8, y: y + 4, "text-anchor": "end" }, words));
  }
  for (const [x, words, anchor] of [[0, `${SECONDS} s ago`, "start"], [50, `${SECONDS / 2} s ago`, "middle"], [100, "now", "end"]]) {
    marks.push(make("text", { x: `${x}%`, y: HEIGHT + 20, "text-anchor": anchor }, words));
  }
  const bars = traffic.bars.flatMap((counts, index) => {
    let below = 0;
    return counts.map((count, kind) => {
      const tall = Math.min(HEIGHT - below, HEIGHT * count / Math.max(top, counts.reduce((sum, each) => sum + each, 0)));
      below += tall;
      return count ? make("rect", { class: `fill-${kinds[kind]}`, x: `${index * width}%`, width: `${width}%`, y: HEIGHT - below, height: tall }) : null;
    }).filter(Boolean);
  });
  const plot = $("plot");
  plot.replaceChildren($("plot-title"), $("plot-desc"), ...marks.slice(0, 2), ...bars, ...marks.slice(2));
  const all = traffic.releases.reduce((sum, each) => sum + each.count, 0);
  const shares = traffic.releases.map((each) => `${each.name} gave ${each.count} answers`);
  say($("plot-desc"), `${shares.join(", ") || "Nobody answered"}; ${traffic.failed} requests failed. The same is in the table below.`);
  fill("legend",
    ...traffic.releases.map((each) => make("li", {}, make("i", { class: `fill-${colour(each.colour)}` }), each.name, make("span", { class: "soft" }, share(each.count, all + traffic.failed)))),
    traffic.failed > 0 && make("li", { class: "bad" }, make("i", { class: "fill-failed" }), `${traffic.failed} failed: ${traffic.failures.map((each) => each.why).join(", ")}`),
    make("li", { class: "unit" }, all ? `answers a second · p50 ${ms(traffic.p50_ms)}` : "answers a second"));
  const late = traffic.bars.slice(-10);
  const sum = (bars, index) => bars.reduce((total, counts) => total + counts[index], 0);
  fill("counts", ...[...traffic.releases.map((each) => each.name), "failed"].map((name, index) => make("tr", {},
    make("th", { scope: "row" }, name), make("td", {}, sum(late, index)), make("td", {}, sum(traffic.bars, index)))));
  say($("latency"), `Answers of the last minute: half came within ${ms(traffic.p50_ms)}, all but a hundredth within ${ms(traffic.p99_ms)}`);
}

const share = (count, all) => (all ? `${Math.round(100 * count / all)} %` : "");

// Actions.

function showAction() {
  $("action").hidden = false;
  say($("action-title"), capital(action.running ? `${action.title} is under way` : action.title));
  fill("steps", ...action.steps.map((step) => make("li", { class: Object.hasOwn(MARKS, step.state) && step.state === "started" && action.running ? "started" : "" },
    make("span", { class: `mark ${Object.hasOwn(MARKS, step.state) ? step.state : ""}`, "aria-hidden": "true" }, MARKS[step.state] ?? "·"),
    make("span", { class: "name" }, step.state.startsWith("und") ? `undo ${step.step}` : step.step),
    make("span", { class: "said" }, action.running ? step.detail : step.detail.split("\n")[0]),
    make("span", { class: "took" }, ["started", "progress"].includes(step.state) ? "" : seconds(step.seconds)))));
  if (action.running) { fill("outcome"); return; }
  const { receipt, error } = action;
  const good = action.code === 0;
  const words = receipt ? `${receipt.action} ${receipt.from ?? "nothing"} → ${receipt.to}: ${receipt.result}` : good ? `${action.title}: done` : `${action.title} ended with exit code ${action.code}`;
  const [first, ...rest] = (error?.message ?? "").split("\n");
  fill("outcome",
    make("p", { class: `result ${receipt && Object.hasOwn(MARKS, receipt.result) ? receipt.result : good ? "done" : "failed"}` }, make("i", { "aria-hidden": "true" }, make("b", {}, MARKS[receipt?.result] ?? (good ? "✓" : "✗"))), make("span", {}, words)),
    receipt?.result === "unchanged" && receipt.reason && make("p", { class: "soft" }, receipt.reason),
    error && make("div", { class: "why failed" }, make("p", {}, first), rest.length > 0 && make("pre", {}, rest.join("\n")), error.hint && make("p", { class: "soft" }, `Next: ${error.hint}`)),
    !receipt && !error && action.words.length > 0 && make("pre", {}, action.words.join("\n")),
    receipt && receipt.result !== "unchanged" && make("p", {}, make("a", { href: `/runs/${encodeURIComponent(receipt.run)}` }, "Report"), " · ", make("a", { href: `/runs/${encodeURIComponent(receipt.run)}/receipt.json` }, "Receipt")));
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json", "X-CSRF-Token": document.querySelector("meta[name=csrf]").content }, body: JSON.stringify(body) });
  const text = await response.text();
  try { return JSON.parse(text); } catch { return { event: "error", message: text.trim() || `the dashboard answered ${response.status}`, hint: "" }; }
}

function setButtons() {
  const form = $("deploy");
  if (!form) return;
  const under = busy || Boolean(action?.running) || document.body.classList.contains("is-stale");
  form.querySelector("button.main").disabled = under;
  $("rollback").disabled = under || !state?.rollback.ready && !state?.unfinished;
}

async function ask(wish, release) {
  const name = wish === "deploy" ? `Deploy ${release}` : "Roll back";
  busy = true;
  setButtons();
  say($("ask-title"), `${name}?`);
  fill("ask-plan", make("p", { class: "soft", role: "status" }, "Asking what would be done…"));
  $("yes").hidden = true;
  $("ask").showModal();
  let plan;
  try { plan = await post("/plan", { action: wish, release }); } catch { plan = { event: "error", message: "the dashboard does not answer", hint: "" }; }
  if (!$("ask").open) return;
  if (plan.event === "error") {
    fill("ask-plan", make("div", { class: "why failed", role: "status" }, make("p", {}, plan.message), plan.hint && make("p", { class: "soft" }, `Next: ${plan.hint}`)));
    return;
  }
  if (!plan.steps.length) {
    fill("ask-plan", make("p", { role: "status" }, `There is nothing to do: ${plan.reason}`));
    return;
  }
  const refused = plan.edits && plan.action === "deploy";
  say($("ask-title"), `${plan.action === "deploy" ? "Deploy" : "Roll back to"} ${plan.release}?`);
  fill("ask-plan",
    make("p", { class: "soft", role: "status" }, `${plan.from ? `${plan.from} is live. ` : ""}${capital(plan.action)} ${plan.release} would:`),
    make("ol", { class: "steps" }, ...plan.steps.map((step) => make("li", {}, make("span", { class: "name" }, step.step), make("span", { class: "said" }, step.detail)))),
    plan.edits && make("div", { class: "why failed" }, make("p", {}, refused ? "A person has edited the proxy's files, and this deploy would be refused. bluegreen deploy --overwrite-edits writes over that." : "A person has edited the proxy's files, which this writes over:"), make("pre", {}, plan.edits)),
    plan.diff ? make("details", {}, make("summary", {}, "The change of the proxy's config"), make("pre", { tabindex: "0" }, plan.diff)) : make("p", { class: "soft" }, "The proxy's config stays as it is."),
    make("p", { class: "soft" }, "Nothing was changed yet; another run may come first."));
  if (refused) return;
  say($("yes"), plan.action === "deploy" ? `Deploy ${plan.release}` : `Roll back to ${plan.release}`);
  // What the plan says is what is asked for; the end of an unfinished run is nothing that has a name.
  const named = plan.steps.some((step) => step.step === "recover") ? release : plan.release;
  $("yes").onclick = () => begin(wish, named);
  $("yes").hidden = false; // the focus stays on Cancel: a key pressed twice deploys nothing
}

async function begin(wish, release) {
  $("yes").disabled = true;
  let begun;
  try { begun = await post("/actions", { action: wish, release }); } catch { begun = { event: "error", message: "the dashboard does not answer; it may have begun all the same", hint: "bluegreen status" }; }
  $("yes").disabled = false;
  if (begun.event === "error") {
    $("yes").hidden = true;
    fill("ask-plan", make("div", { class: "why failed", role: "status" }, make("p", {}, begun.message), begun.hint && make("p", { class: "soft" }, `Next: ${begun.hint}`)));
    return;
  }
  $("ask").close();
}

if ($("deploy")) {
  $("deploy").addEventListener("submit", (event) => { event.preventDefault(); ask("deploy", $("release").value.trim()); });
  $("rollback").addEventListener("click", () => ask("rollback", null));
  $("no").addEventListener("click", () => $("ask").close());
  $("ask").addEventListener("close", () => { busy = false; setButtons(); });
}
$("logout")?.addEventListener("click", async () => {
  await fetch("/logout", { method: "POST", headers: { "X-CSRF-Token": document.querySelector("meta[name=csrf]").content } });
  location.assign("/login");
});

connect();
