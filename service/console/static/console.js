// What the pages of the console do besides htmx: refresh themselves, draw a chart, and send files.
"use strict";

(() => {
  const find = (selector, root = document) => root.querySelector(selector);

  // --- Refreshing. Only while somebody looks, and not under a pressed button of the mouse.

  let refreshedAt = Date.now();
  let isPressed = false;
  document.addEventListener("pointerdown", () => { isPressed = true; });
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { isPressed = false; });

  function refresh() {
    const live = find("#live");
    if (!live || document.hidden || isPressed) return;
    if (Date.now() - refreshedAt < 1000 * Number(live.dataset.refresh) - 100) return;
    refreshedAt = Date.now();
    htmx.trigger(live, "refresh");
  }
  setInterval(refresh, 500);
  document.addEventListener("visibilitychange", refresh);

  // --- A lost connection is said at the top, and forgotten when an answer comes.

  function sayConnection(text) {
    const note = find("#connection");
    if (note.textContent !== text) note.textContent = text;
    note.hidden = !text;
  }
  document.addEventListener("htmx:error", () => {
    const time = new Date().toLocaleTimeString();
    if (find("#connection").hidden) sayConnection(`Penstock has not answered since ${time}. This page shows what was known then, and tries again.`);
  });
  document.addEventListener("htmx:after:request", (event) => {
    const status = event.detail.ctx.response.status;
    const isRefresh = event.detail.ctx.sourceElement.id === "live";
    if (isRefresh && status === 404) sayConnection("This does not exist any more.");
    else if (isRefresh && status >= 400) sayConnection(`Penstock cannot show the newest state (${status}). This page tries again.`);
    else sayConnection("");
  });

  // --- After a swap: the chart gets its new points, and the focus goes to the message if its button is gone.

  const FAILURES_MS = 10000;  // they cost more to read than the status
  let failed = find("#live")?.dataset.failed, failuresAt = 0;
  let madeKey = find("#made-key")?.value;
  let wasFinal = "final" in (find("#live")?.dataset ?? {});
  document.addEventListener("htmx:after:swap", (event) => {
    draw();
    const made = find("#made-key")?.value;
    if (made && made !== madeKey && !find("#problem")) find("form.form")?.reset();
    madeKey = made;
    const isFinal = "final" in (find("#live")?.dataset ?? {});
    if (isFinal && !wasFinal && event.detail.ctx?.sourceElement?.id === "live") find("#message")?.replaceChildren();  // "Its rows run now."
    wasFinal = isFinal;
    if (document.activeElement === document.body) find("#problem, #made, #main")?.focus({ preventScroll: true });
    refreshFailures();
    const completed = Number(find("#live")?.dataset.completed ?? 0);
    if (completed && find("#outcomes .waiting") && !find("#outcomes").contains(document.activeElement)) refreshOutcomes(completed);
  });

  function refreshFailures() {
    const live = find("#live");
    if (!live || !find("#failures") || live.dataset.failed === failed) return;
    if (!("final" in live.dataset) && Date.now() - failuresAt < FAILURES_MS) return;
    failed = live.dataset.failed;
    failuresAt = Date.now();
    htmx.trigger("#failures", "refresh");
  }

  let outcomesOf = 0;
  function refreshOutcomes(completed) {
    if (completed === outcomesOf) return;
    outcomesOf = completed;
    htmx.trigger("#outcomes", "refresh");
  }

  // --- The chart of one batch.

  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400];  // seconds
  const WHOLE = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();
  let plot = null;
  function clock(seconds) {
    const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.round(seconds % 60)];
    const two = (number) => String(number).padStart(2, "0");
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  }
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function draw() {
    const box = find("#chart"), series = find("#series");
    if (!box || !series) return;
    const { at, completed, rate } = JSON.parse(series.dataset.series);
    const data = [at.map((time) => time - at[0]), completed, rate];
    if (plot && box.contains(plot.root)) { plot.setData(data); return; }
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const short = (_, values) => values.map((value) => Intl.NumberFormat("en", { notation: "compact" }).format(value));
    plot = new uPlot({
      width: box.clientWidth, height: 188, cursor: { drag: { x: false, y: false } }, legend: { show: false },
      scales: { x: { time: false }, completed: { range: (_, _low, high) => [0, Math.max(1, high)] }, rate: { range: (_, _low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [{ ...axis, incrs: STEPS, values: (_, values) => values.map(clock) }, { ...axis, scale: "completed", incrs: WHOLE, values: short, size: 52 }, { ...axis, scale: "rate", side: 1, incrs: WHOLE, values: short, grid: { show: false }, size: 52 }],
      series: [{}, { scale: "completed", stroke: colour("--accent"), width: 2, points: { show: false } },
        { scale: "rate", stroke: colour("--bar-warn"), width: 1.5, points: { show: false } }],
    }, data, box);
  }
  addEventListener("resize", () => { const box = find("#chart"); if (plot && box) plot.setSize({ width: box.clientWidth, height: 188 }); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { plot?.destroy(); plot = null; draw(); });

  // --- Keys: / goes to the search.

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, select, textarea");
    const search = find("[data-search]");
    if (event.key === "/" && !isTyping && search && !event.ctrlKey && !event.metaKey) { event.preventDefault(); search.focus(); }
  });
  document.addEventListener("change", (event) => { if (event.target.matches("[data-submit]")) event.target.form.requestSubmit(); });
  document.addEventListener("focusin", (event) => { if (event.target.matches("[data-select]")) event.target.select(); });

  // --- A message about a change is not shown again when the page is reloaded.

  const url = new URL(location.href);
  if (url.searchParams.has("done")) {
    url.searchParams.delete("done");
    url.searchParams.delete("count");
    history.replaceState(history.state, "", url);
  }

  // --- A person comes from another site: then the first request had no cookie, and this one has it.

  const again = find("#again");
  if (again) location.replace(again.href);

  // --- Sending a file.

  const form = find("#file-form");
  const LOOK_BYTES = 65536;
  let file = null, kind = null, head = null, sending = null, isChosen = false;  // isChosen: the person chose the operation
  let key = null, keyOf = null;  // the idempotency key of a file stays the same until the file is accepted

  function show(target, html, selector) {
    const part = new DOMParser().parseFromString(html, "text/html").querySelector(selector);
    target.replaceChildren(...(part ? [document.adoptNode(part)] : []));
    return part;
  }

  function problem(text) {
    const box = document.createElement("p");
    box.className = "note bad";
    box.setAttribute("role", "alert");
    box.textContent = text;
    find("#answer").replaceChildren(box);
  }

  async function take(chosen) {
    file = chosen;
    const identity = [file.name, file.size, file.lastModified].join("/");
    if (identity !== keyOf) [key, keyOf] = [null, identity];
    find("#answer").replaceChildren();
    find("#send").hidden = true;
    isChosen = false;
    head = new Uint8Array(await file.slice(0, LOOK_BYTES).arrayBuffer());
    const first = new TextDecoder().decode(head.slice(0, 1000)).trimStart()[0];
    kind = first === "{" ? "application/x-ndjson" : "text/csv";
    if (first === "[") { find("#look").replaceChildren(); problem("This is a JSON list. Write one object on each line (NDJSON), or save the rows as CSV."); return; }
    await look();
  }

  function operation() {
    return { method: find("#operation").selectedOptions[0]?.dataset.method ?? "POST", path: find("#path").value };
  }

  async function look() {
    if (!file) return;
    let answer;
    try {
      answer = await fetch(`/console/file/look?${new URLSearchParams(isChosen ? operation() : {})}`, { method: "POST", body: head, headers: { "Content-Type": kind } });
    } catch { problem("Penstock does not answer. Try it again."); return; }
    const html = await answer.text();
    find("#answer").replaceChildren();
    if (!answer.ok) { find("#look").replaceChildren(); find("#send").hidden = true; show(find("#answer"), html, "#problem"); return; }
    const section = show(find("#look"), html, "section");
    key ??= section.dataset.key;
    if (!isChosen) { find("#operation").value = `${section.dataset.method} ${section.dataset.path}`; find("#path").value = section.dataset.path; }
    find("#choices").hidden = section.hasAttribute("data-whole");
    find("#send").hidden = false;
  }

  function send() {
    const look = find("#look section"), columns = {};
    for (const input of look.querySelectorAll("[data-column]")) {
      const name = input.value.trim();
      if (name !== input.dataset.column) columns[input.dataset.column] = name || null;
    }
    const query = new URLSearchParams({ priority: find("#priority").value });
    if (!look.hasAttribute("data-whole")) {
      const { method, path } = operation();
      query.set("method", method);
      query.set("path", path);
      if (Object.keys(columns).length) query.set("columns", JSON.stringify(columns));
    }
    sending = new XMLHttpRequest();  // fetch does not tell how much was sent
    sending.open("POST", `${form.getAttribute("action")}?${query}`);
    sending.setRequestHeader("Content-Type", kind);
    sending.setRequestHeader("Prefer", "respond-async");
    sending.setRequestHeader("Idempotency-Key", `"${key}"`);
    sending.upload.onprogress = (event) => {
      find("#sent").value = 100 * event.loaded / event.total;
      say(event.loaded < event.total ? "Sending and checking …" : "Checking the last rows …");
    };
    sending.onload = () => done(sending);
    sending.onerror = async () => { busy(false); problem(await isReadable() ? "The connection was lost. Press the button again: a file that has arrived does not run twice." : CHANGED); };
    busy(true);
    say("Sending and checking …");
    sending.send(file);
  }

  const CHANGED = "The file has changed on disk. Choose it again.";
  async function isReadable() {
    try { await file.slice(0, 1).arrayBuffer(); return true; } catch { return false; }
  }

  function done(request) {
    busy(false);
    if (request.status === 202) { key = null; location.assign(`/console/batch/${encodeURIComponent(JSON.parse(request.responseText).batchId)}?done=accepted`); return; }
    if (request.status === 401) { location.assign("/console/key?then=/console/file"); return; }
    const part = show(find("#answer"), request.responseText, "#problem");
    if (!part) problem(`Penstock answered ${request.status}. Try it again.`);
    find("#answer").scrollIntoView({ block: "nearest" });
    find("#problem")?.focus();
  }

  function busy(is) { find("#send-button").disabled = is; find("#sending").hidden = !is; find("#sent").value = 0; }
  function say(text) { const line = find("#sending-text"); if (line.textContent !== text) line.textContent = text; }

  if (form) {
    const input = find("#file"), drop = find("#drop"), choice = find("#operation");
    const setPath = () => { find("#path").value = choice.selectedOptions[0]?.dataset.path ?? ""; };
    setPath();
    choice.addEventListener("change", () => { isChosen = true; setPath(); look(); });
    find("#path").addEventListener("change", () => { isChosen = true; look(); });
    input.addEventListener("click", () => { input.value = ""; });  // a corrected file with the same path is a change, too
    input.addEventListener("change", () => { if (input.files[0]) take(input.files[0]); });
    form.addEventListener("submit", (event) => { event.preventDefault(); if (file && !find("#send").hidden && !find("#send-button").disabled) send(); });
    for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
    if (input.files[0]) take(input.files[0]);
  }

  document.addEventListener("DOMContentLoaded", draw);
  if (document.readyState !== "loading") draw();
})();
