"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const FINAL = ["succeeded", "failed", "cancelled"];
  const POLL_MS = 3000, AGAIN_MS = 2000, PAGE = 20;
  const jobs = new Map(); // id -> {job, row, stream}
  let token = sessionStorage.getItem("gowhy-token") || "";
  let connected = false, older = null, polling = 0;

  class Refused extends Error {
    constructor(status, problem) {
      super(problem.detail || problem.title || `HTTP ${status}`);
      this.status = status;
    }
  }

  async function ask(path, options = {}) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    if (options.body) headers["Content-Type"] = "application/json";
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
    return response;
  }

  const get = async (path) => (await ask(path)).json();
  const post = async (path, body, headers) =>
    (await ask(path, { method: "POST", headers, body: body && JSON.stringify(body) })).json();

  function say(text, bad = false) {
    $("notice").textContent = text;
    $("notice").className = bad ? "bad" : "";
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function action(text, job, work) {
    const made = element("button", text);
    made.type = "button";
    made.setAttribute("aria-label", `${text} job ${job.id}`);
    made.addEventListener("click", async () => {
      made.disabled = true;
      try { await work(); } catch (error) { say(error.message, true); } finally { made.disabled = false; }
    });
    return made;
  }

  function progressOf(job) {
    const cell = element("td"), step = job.progress;
    if (job.state === "failed" && job.error) cell.append(element("span", job.error.message));
    if (job.state !== "running") return cell;
    if (job.retry_at) {
      cell.append(element("span", `next attempt at ${new Date(job.retry_at).toLocaleTimeString()}`));
    } else if (step) {
      const bar = element("progress");
      bar.max = Math.max(1, step.total || 1);
      bar.value = step.done || 0;
      bar.setAttribute("aria-label", `Proteins done of job ${job.id}`);
      const doing = [step.protein, step.model, step.method].filter(Boolean).join(" ");
      cell.append(bar, element("div", `${step.done ?? 0} of ${step.total ?? "?"} ${doing}`, "help"));
    }
    return cell;
  }

  function actionsOf(job) {
    const cell = element("td");
    if (job.state === "succeeded") cell.append(action("Report", job, () => openReport(job)));
    if (!FINAL.includes(job.state) && !job.cancel_requested)
      cell.append(action("Cancel", job, async () => show(await post(job.links.cancel))));
    if (["failed", "cancelled"].includes(job.state))
      cell.append(action("Retry", job, async () => show(await post(job.links.retry))));
    return cell;
  }

  // The tab is opened at the click, before the answer: browsers block those that come later.
  async function openReport(job) {
    const tab = window.open("about:blank", "_blank");
    try {
      const link = await post(job.links.report_link);
      if (tab) { tab.opener = null; tab.location.replace(link.url); } else location.assign(link.url);
    } catch (error) {
      if (tab) tab.close();
      throw error;
    }
  }

  function show(job, last = false) {
    let known = jobs.get(job.id);
    if (!known) {
      known = { row: element("tr"), stream: null };
      known.row.id = `job-${job.id}`;
      jobs.set(job.id, known);
      if (jobs.size === 1) $("jobs").replaceChildren();
      if (last) $("jobs").append(known.row); else $("jobs").prepend(known.row);
    }
    const before = known.job && known.job.state;
    const focused = known.row.contains(document.activeElement) ? document.activeElement.textContent : null;
    known.job = job;
    const state = element("td");
    state.append(element("span", job.cancel_requested && job.state === "running" ? "cancelling" : job.state, `state ${job.state}`));
    if (job.attempt > 1) state.append(element("div", `attempt ${job.attempt}`, "help"));
    known.row.replaceChildren(
      element("td", job.id.slice(0, 12)), element("td", job.run_id), state, progressOf(job),
      element("td", new Date(job.created_at).toLocaleString()), actionsOf(job),
    );
    known.row.firstChild.title = job.id;
    if (focused) [...known.row.querySelectorAll("button")].find((b) => b.textContent === focused)?.focus();
    if (before && before !== job.state) {
      say(`Job ${job.id.slice(0, 12)} ${job.state}`);
      get("/v1/info").then(showInfo, () => {});
    }
    if (!FINAL.includes(job.state)) follow(job.id);
  }

  // Server-sent events by fetch, because EventSource cannot send a token.
  async function follow(id) {
    const known = jobs.get(id);
    if (known.stream) return;
    known.stream = new AbortController();
    const mine = token;
    let seen = 0;
    while (connected && token === mine) {
      try {
        const headers = { Accept: "text/event-stream", "Last-Event-ID": String(seen) };
        const response = await ask(known.job.links.events, { headers, signal: known.stream.signal });
        for await (const event of eventsOf(response.body)) {
          seen = Number(event.id) || seen;
          apply(known, event);
        }
        const job = await get(known.job.links.self);
        if (FINAL.includes(job.state)) { known.stream = null; show(job); return; }
      } catch (error) {
        if (error.name === "AbortError" || [401, 403, 404].includes(error.status)) break;
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
    known.stream = null;
  }

  function apply(known, event) {
    const data = JSON.parse(event.data), job = { ...known.job };
    if (event.event === "progress") job.progress = { ...job.progress, ...data };
    if (event.event === "attempt") { job.attempt = data.attempt ?? job.attempt; job.retry_at = null; job.progress = null; }
    if (event.event === "running") job.state = "running";
    if (event.event === "cancel_requested") job.cancel_requested = true;
    if (job.state === known.job.state || event.event === "running") show(job);
  }

  async function* eventsOf(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", event = {};
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) {
        if (line === "") { if (event.data) yield event; event = {}; continue; }
        const colon = line.indexOf(":");
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
      }
    }
  }

  function showInfo(info) {
    const queue = info.queue, oldest = queue.oldest_waiting_s;
    $("waiting").textContent = `${queue.waiting} of ${queue.bound}`;
    $("running").textContent = queue.by_state.running ?? 0;
    $("workers").textContent = queue.workers;
    $("oldest").textContent = oldest === null ? "–" : `${Math.round(oldest)} s`;
    $("depth").max = queue.bound;
    $("depth").value = queue.waiting;
    if (!$("methods").querySelector("input")) {
      $("methods").replaceChildren(...info.methods.map((name) => {
        const label = element("label"), box = element("input");
        box.type = "checkbox"; box.checked = true; box.value = name;
        label.append(box, ` ${name}`);
        return label;
      }));
    }
  }

  async function refresh() {
    const [info, page] = await Promise.all([get("/v1/info"), get(`/v1/explanations?page_size=${PAGE}`)]);
    showInfo(info);
    if (!page.jobs.length && !jobs.size) {
      $("jobs").replaceChildren(element("tr"));
      const cell = element("td", "No jobs yet");
      cell.colSpan = 6;
      $("jobs").firstChild.append(cell);
    }
    for (const job of page.jobs.reverse()) show(job);
    return page;
  }

  async function connect() {
    clearInterval(polling);
    for (const { stream } of jobs.values()) stream?.abort();
    jobs.clear();
    $("jobs").replaceChildren();
    connected = true;
    try {
      older = (await refresh()).next_page_token;
      $("more").hidden = older === null;
      say("Connected");
    } catch (error) {
      connected = false;
      say(error.status === 401 ? "This service needs a valid token" : error.message, true);
      return;
    }
    polling = setInterval(() => refresh().catch((error) => say(error.message, true)), POLL_MS);
  }

  const words = (id) => $(id).value.split(/[\s,;]+/).filter(Boolean);

  $("access").addEventListener("submit", (event) => {
    event.preventDefault();
    token = $("token").value.trim();
    sessionStorage.setItem("gowhy-token", token);
    $("token").value = "";
    connect();
  });

  $("forget").addEventListener("click", () => {
    sessionStorage.removeItem("gowhy-token");
    location.reload();
  });

  $("submit").addEventListener("submit", async (event) => {
    event.preventDefault();
    const run = $("run").value.trim(), button = event.target.querySelector("button");
    const body = run.endsWith("/manifest.json") ? { manifest: run } : { run_id: run };
    const methods = [...$("methods").querySelectorAll("input:checked")].map((box) => box.value);
    if (words("proteins").length) body.proteins = words("proteins");
    if (words("terms").length) body.terms = words("terms");
    if ($("top").value) body.top_k = Number($("top").value);
    if (methods.length) body.methods = methods;
    button.disabled = true;
    try {
      const job = await post("/v1/explanations", body, { "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") });
      show(job);
      say(`Job ${job.id.slice(0, 12)} queued`);
    } catch (error) {
      say(error.message, true);
    } finally {
      button.disabled = false;
    }
  });

  $("more").addEventListener("click", async () => {
    try {
      const page = await get(`/v1/explanations?page_size=${PAGE}&page_token=${encodeURIComponent(older)}`);
      for (const job of page.jobs) if (!jobs.has(job.id)) show(job, true);
      older = page.next_page_token;
      $("more").hidden = older === null;
    } catch (error) {
      say(error.message, true);
    }
  });

  connect();
})();
