// Sends questions and draws the stream. Model text is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const BOX = /(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}?)/;
const WORSE = { shortest: "longer", random: "by chance", fresh: "voted" };

let server, run; // the model's entry in /v1/models; the current or last question

const strategy = () => $("form").elements.strategy.value;
const since = (time) => (performance.now() - time) / 1e3;
const number = (n) => n.toLocaleString("en");
const size = (tokens) => `${number(tokens)} tokens · ${bytes(tokens * server.token_bytes)}`;

function bytes(n) {
  let at = 0;
  for (; n >= 999.5; at++) n /= 1e3;
  return `${at ? n.toPrecision(3) : n} ${"KMGT"[at - 1] ?? ""}B`;
}

async function call(path, options) {
  const key = $("key").value;
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : Error("The server cannot be reached: does it run?");
  });
  if (response.ok) return response;
  if (response.status === 401) $("key-row").hidden = false;
  const body = await response.json().catch(() => null);
  throw Error(body?.error?.message ?? `The server answered with status ${response.status}.`);
}

async function* chunks(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) throw Error("The connection ended before the answer did.");
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: [DONE]")) return;
      if (line.startsWith("data:")) yield JSON.parse(line.slice(5));
    }
  }
}

function body() {
  const thinking = { strategy: strategy() };
  const wanted = { messages: [{ role: "user", content: $("question").value }], thinking, stream: true };
  if (thinking.strategy !== "standard") thinking.thoughts = $("thoughts").valueAsNumber;
  if (thinking.strategy === "min-seek") thinking.rule = $("rule").value;
  if ($("longest").value) thinking.max_thought_tokens = $("longest").valueAsNumber;
  for (const name of ["temperature", "seed"]) if ($(name).value) wanted[name] = $(name).valueAsNumber;
  return JSON.stringify(wanted);
}

async function ask() {
  const r = { thoughts: [], answer: "", settled: 0, cached: 0, peak: 0, cut: 0, gone: 0, written: 0, points: [] };
  const rule = strategy() === "fresh" ? "fresh" : $("rule").value;
  run = Object.assign(r, { began: performance.now(), abort: new AbortController(), running: true, rule });
  $("list").replaceChildren();
  $("none").hidden = $("error").hidden = true;
  state(r, "Waiting for a slot …");
  tick(r);
  try {
    if (!server) await greet();
    const response = await call("v1/chat/completions", { method: "POST", body: body(), signal: r.abort.signal });
    for await (const { error, choices, minseek } of chunks(response)) {
      if (error) throw Error(error.message);
      if (minseek) take(r, minseek, choices[0].delta);
    }
    r.end = "Done.";
  } catch (error) {
    r.end = error.name === "AbortError" ? "Stopped." : fail(error);
  }
  r.running = false;
  r.seconds ??= since(r.began);
  for (const thought of r.thoughts) if (thought.state === "running") mark(thought, "stopped");
  state(r, r.end);
  draw(r);
}

function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  return "";
}

function state(r, phase) {
  if ($("phase").textContent !== phase) $("phase").textContent = phase;
  $("go").textContent = r.running ? "Stop" : "Ask";
  $("go").classList.toggle("stop", r.running);
  $("answer").ariaBusy = r.running;
}

function take(r, note, delta) {
  const { type, index, kv_tokens: cached } = note;
  const thought = r.thoughts[index] ?? (index >= 0 && start(r, index));
  if (type === "thought") {
    thought.tokens = note.tokens;
    thought.text += delta.reasoning_content ?? "";
    mark(thought);
  } else if (type === "thought_ended") {
    const cut = { closed: "", "max-thought-tokens": "", loop: "loop" }[note.ended_by] ?? "cut off";
    r.cut += Math.max(0, thought.tokens - note.tokens);
    Object.assign(thought, { tokens: note.tokens, why: note.why, cut });
    mark(thought, !index ? "first" : note.kept ? "kept" : "gone");
    const left = r.thoughts[note.dropped];
    if (left) mark(Object.assign(left, { why: `thought ${index} has ${note.why}` }), "gone");
    r.settled = cached;
    if (!index) r.base = cached;
  } else if (type === "answer") {
    r.base ??= r.settled = cached;
    r.answer += delta.content ?? "";
    state(r, "Answering …");
  } else if (type === "finished") {
    for (const { index, text } of note.thoughts) r.thoughts[index].text = text;
    Object.assign(r, { peak: note.kv_tokens_peak, seconds: note.seconds, speed: note.tokens_per_second });
  }
  if (cached === undefined) return;
  $("list").style.setProperty("--longest", Math.max(...r.thoughts.map((thought) => thought.tokens)));
  const tokens = (thoughts) => thoughts.reduce((sum, thought) => sum + thought.tokens, 0);
  r.written = tokens(r.thoughts) + (type === "answer" ? cached - r.settled : 0);
  r.first ??= { at: performance.now(), written: r.written };
  // Between the ends the cache grows evenly.
  const ended = type === "thought_ended";
  if (ended) r.points.push(point(r));
  r.cached = cached;
  r.peak = Math.max(r.peak, cached);
  r.gone = r.cut + tokens(r.thoughts.filter((thought) => thought.state === "gone"));
  if (ended || !r.points.length) r.points.push(point(r));
}

const would = (r) => Math.max(r.cached + r.gone, r.peak);
const point = (r) => [r.written, r.cached, would(r)];

function start(r, index) {
  const item = $("thought").content.cloneNode(true).firstElementChild;
  const [open, text] = item.children;
  const [name, bar, label] = open.children;
  const thought = { tokens: 0, text: "", why: "", cut: "", box: text, fill: bar.firstElementChild, label };
  name.append(index);
  text.id = `thought-${index}`;
  open.setAttribute("aria-controls", text.id);
  open.addEventListener("click", () => {
    text.hidden = !text.hidden;
    open.ariaExpanded = !text.hidden;
    mark(thought);
  });
  mark(thought, "running");
  const list = $("list");
  const follow = list.scrollHeight - list.scrollTop < list.clientHeight + 40;
  list.append(item);
  if (follow) list.scrollTop = list.scrollHeight;
  state(r, `Thought ${index} …`);
  return (r.thoughts[index] = thought);
}

function mark(thought, kind = thought.state) {
  const { tokens, text, why, cut, fill, label, box } = thought;
  thought.state = fill.className = kind;
  fill.style.width = `calc(100% * ${tokens} / var(--longest))`;
  const gone = kind === "gone";
  const word = gone ? "dropped" : kind;
  const reason = cut || (gone && (WORSE[run.rule] ?? `not ${run.rule}`));
  label.textContent = `${number(tokens)} · ${word}${reason ? `: ${reason}` : ""}`;
  if (!box.hidden) box.textContent = text.trim() + (why && `\n— ${word}: ${why}`);
}

function tick(r) {
  if (!r.running) return;
  draw(r);
  requestAnimationFrame(() => tick(r));
}

function draw(r) {
  if ($("answer").textContent !== r.answer) $("answer").replaceChildren(...boxed(r.answer));
  $("written").textContent = number(r.written);
  $("seconds").textContent = (r.seconds ?? since(r.began)).toFixed(1);
  const speed = r.speed ?? (r.written - r.first?.written) / since(r.first?.at);
  $("speed").textContent = speed > 0 ? speed.toFixed(1) : "–";
  if (server) drawCache(r);
}

function boxed(text) {
  return text.split(BOX).map((part, at) => {
    if (at % 2 === 0) return part;
    const box = document.createElement("mark");
    box.textContent = part;
    return box;
  });
}

function drawCache(r) {
  const slot = server.slot_tokens;
  const base = Math.min(r.cached, r.base ?? r.cached);
  const kept = Math.min(r.settled, r.cached) - base;
  const ghost = would(r);
  const sizes = { base, kept, current: r.cached - base - kept, peak: r.peak, ghost };
  for (const [name, tokens] of Object.entries(sizes)) {
    $(name).style[name === "peak" ? "left" : "width"] = `${Math.min(100, (100 * tokens) / slot)}%`;
    $(`${name}-size`).textContent = size(tokens);
  }
  if (ghost > slot) $("ghost-size").textContent += `, ${(ghost / slot).toFixed(1)} slots`;
  $("current-name").textContent = r.answer ? "answer" : "this thought";
  const ariaValueText = `${size(r.cached)} of ${size(slot)}`;
  Object.assign($("meter"), { ariaValueMax: slot, ariaValueNow: r.cached, ariaValueText });

  const across = 600 / Math.max(1, r.written);
  const up = 115 / Math.max(1, ghost);
  const points = [...r.points, point(r)];
  const line = (column) => points.map((each) => `${each[0] * across} ${120 - each[column] * up}`).join("L");
  $("area").setAttribute("d", `M${points[0][0] * across} 120L${line(1)}V120Z`);
  $("would").setAttribute("d", `M${line(2)}`);
  $("slot").setAttribute("d", slot * up <= 120 ? `M0 ${120 - slot * up}H600` : "");
}

async function greet() {
  const { id, minseek } = (await (await call("v1/models")).json()).data[0];
  server = minseek;
  $("server").textContent = `${id} · slots of ${size(server.slot_tokens)}`;
  $("key-row").hidden = !$("key").value;
  if (run) return;
  $("question").value ||= server.example;
  $("question").select();
  const { thoughts } = server.default;
  if (thoughts) $("thoughts").value = $("range").value = thoughts;
}

function controls() {
  $("many").disabled = strategy() === "standard";
  $("rule").disabled = strategy() !== "min-seek";
}

function stop(event) {
  if (!run?.running) return;
  event.preventDefault();
  run.abort.abort();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (run?.running) return;
  if ($("question").value.trim()) ask();
  else fail(Error("Write a question first."));
});
$("form").addEventListener("change", controls);
$("go").addEventListener("click", stop);
addEventListener("keydown", (event) => event.key === "Escape" && stop(event));
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("form").requestSubmit();
});
$("range").addEventListener("input", () => ($("thoughts").value = $("range").value));
$("thoughts").addEventListener("input", () => ($("range").value = $("thoughts").value || 0));
$("key").value = sessionStorage.getItem("minseek-key") ?? "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("minseek-key", $("key").value);
  $("error").hidden = true;
  greet().catch(fail);
});
controls();
greet().catch(fail);
