// What the pages of the console do besides htmx: refresh themselves, draw a chart, and send files.
"use strict";

(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const home = document.body.dataset.home;  // where the console is, such as /bulk/console

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

  // --- A swap may remove or disable what has the focus. Then the focus returns to it, or goes to the message.

  let focused = null;
  document.addEventListener("focusin", (event) => { focused = event.target; });
  document.addEventListener("focusout", (event) => queueMicrotask(() => {  // Chromium sends it before it removes an element
    if (event.target === focused && focused.isConnected && !focused.disabled) focused = null;
  }));
  function keepFocus() {
    if (!focused || document.activeElement !== document.body) return;
    const kept = focused.isConnected && !focused.disabled && !focused.closest("[hidden]") ? focused : find("#problem, #made, #main");
    kept?.focus({ preventScroll: true });
  }

  // --- After a swap: the chart gets its new points, and the parts of the page that are not refreshed follow.

  const FAILURES_MS = 10000;  // they cost more to read than the status
  let failures = failuresOf(find("#live")), failuresAt = 0;
  let madeKey = find("#made-key")?.value;
  let wasFinal = "final" in (find("#live")?.dataset ?? {});
  document.addEventListener("htmx:after:swap", (event) => {
    draw();
    const made = find("#made-key")?.value;
    if (made && made !== madeKey && !find("#problem")) find("form.form")?.reset();
    madeKey = made;
    const isFinal = "final" in (find("#live")?.dataset ?? {}), hasEnded = isFinal && !wasFinal;
    if (hasEnded && event.detail.ctx?.sourceElement?.id === "live") find("#message")?.replaceChildren();  // "Its rows run now."
    wasFinal = isFinal;
    keepFocus();
    refreshFailures();
    refreshOutcomes(hasEnded);
  });

  function failuresOf(live) {  // those of a batch that is final have buttons
    return Number(live?.dataset.failed) ? `${live.dataset.failed} ${"final" in live.dataset}` : "none";
  }

  function refreshFailures() {
    const live = find("#live");
    if (!live || !find("#failures") || failuresOf(live) === failures) return;
    if (!("final" in live.dataset) && Date.now() - failuresAt < FAILURES_MS) return;
    failures = failuresOf(live);
    failuresAt = Date.now();
    htmx.trigger("#failures", "refresh");
  }

  // The outcomes change while their page is not full. Not while somebody uses them: then the next swap does it.
  let outcomesOf = 0, mustRefresh = false;
  function refreshOutcomes(hasEnded) {
    const outcomes = find("#outcomes"), completed = Number(find("#live")?.dataset.completed ?? 0);
    mustRefresh ||= hasEnded;
    if (!outcomes || !completed || outcomes.contains(document.activeElement)) return;
    if (!mustRefresh && !("open" in outcomes.dataset && completed !== outcomesOf)) return;
    outcomesOf = completed;
    mustRefresh = false;
    htmx.trigger(outcomes, "refresh");
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
  const LOOK_BYTES = 65536, CSV = "text/csv";
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
    const charset = charsetOf(head), first = new TextDecoder(charset).decode(head.slice(0, 1000)).trimStart()[0];
    kind = first === "{" ? "application/x-ndjson" : CSV;
    find("#charset").value = charset;
    find("#charset-choice").hidden = kind !== CSV;
    if (first === "[") { find("#look").replaceChildren(); problem("This is a JSON list. Write one object on each line (NDJSON), or save the rows as CSV."); return; }
    await look();
  }

  // Files of spreadsheets are in UTF-8, in UTF-16 with a mark at the beginning, or most often in Windows-1252.
  function charsetOf(bytes) {
    const mark = bytes[0] << 8 | bytes[1];
    if (mark === 0xfffe || mark === 0xfeff) return "utf-16";
    try { new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true }); return "utf-8"; } catch { return "windows-1252"; }
  }
  function contentType() { return kind === CSV ? `${CSV}; charset=${find("#charset").value}` : kind; }

  function operation() {
    return { method: find("#operation").selectedOptions[0]?.dataset.method ?? "POST", path: find("#path").value };
  }

  async function look() {
    if (!file) return;
    let answer;
    try {
      answer = await fetch(`${home}/file/look?${new URLSearchParams(isChosen ? operation() : {})}`, { method: "POST", body: head, headers: { "Content-Type": contentType() } });
    } catch { problem("Penstock does not answer. Try it again."); return; }
    const html = await answer.text();
    find("#answer").replaceChildren();
    if (!answer.ok) { find("#look").replaceChildren(); find("#send").hidden = true; find("#choices").hidden = kind !== CSV; show(find("#answer"), html, "#problem"); return; }
    const section = show(find("#look"), html, "section");
    key ??= section.dataset.key;
    if (!isChosen) { find("#operation").value = `${section.dataset.method} ${section.dataset.path}`; find("#path").value = section.dataset.path; }
    for (const choice of document.querySelectorAll(".of-operation")) choice.hidden = section.hasAttribute("data-whole");
    find("#choices").hidden = false;
    find("#looked").textContent = find("h2", section).textContent + ". " + find("p", section).textContent;
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
      if (find("#invalid-rows").checked) query.set("invalidRows", "fail");
    }
    sending = new XMLHttpRequest();  // fetch does not tell how much was sent
    sending.open("POST", `${form.getAttribute("action")}?${query}`);
    sending.setRequestHeader("Content-Type", contentType());
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
    if (request.status === 202) { key = null; location.assign(`${home}/batch/${encodeURIComponent(JSON.parse(request.responseText).batchId)}?done=accepted`); return; }
    if (request.status === 401) { location.assign(`${home}/key?then=${home}/file`); return; }
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
    find("#charset").addEventListener("change", look);
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
