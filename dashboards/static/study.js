// A study's page: fetches trials and front when the server says that the study has changed.
"use strict";

(() => {
  const api = document.getElementById("chart").dataset.api;
  const said = document.getElementById("live");
  const ENDED = ["complete", "failed", "stopped", "interrupted"];
  let source = null;
  let busy = false;
  let again = false;
  let rest = 0;

  async function json(path) {
    const answer = await fetch(path, { headers: { Accept: "application/json" }, redirect: "error" });
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer.json();
  }

  async function trialsOf() {
    const found = [];
    for (;;) {
      const page = await json(`${api}/trials?limit=1000&offset=${found.length}`);
      found.push(...page.trials);
      if (found.length >= page.total || !page.trials.length) return found;
    }
  }

  // One fetch at a time, and never more than a quarter of the time spent on it.
  async function update() {
    if (busy) { again = true; return; }
    busy = true;
    const begun = performance.now();
    try {
      const [front, trials] = await Promise.all([json(`${api}/front`), trialsOf(), Live.refresh()]);
      show(front, trials);
    } catch {
      said.textContent = "The server does not answer; this page tries again by itself.";
    }
    rest = Math.min(30000, 3 * (performance.now() - begun));
    setTimeout(() => { busy = false; if (again) { again = false; update(); } }, rest);
  }

  function show(answer, trials) {
    Metrics.known = answer.metrics;
    const front = answer.front;
    const objectives = answer.objectives;
    const pick = front && front.pick ? front.pick.number : null;
    Trials.update(trials, objectives, pick, answer.state === "running");
    Chart.update(trials.filter((one) => one.phase !== "finalists"), front, objectives);
    const now = new Date().toLocaleTimeString();
    said.textContent = ENDED.includes(answer.state) ? "" : `Live. Last change seen at ${now}.`;
  }

  function follow() {
    if (source || document.hidden) return;
    source = new EventSource(`${api}/events`);
    source.addEventListener("change", update);
    source.addEventListener("gone", () => { unfollow(); location.reload(); });
  }

  // A hidden page keeps no connection: browsers allow few to one server.
  function unfollow() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? unfollow() : follow()));
  window.addEventListener("pagehide", unfollow);
  Trials.listen(Chart.choose);
  update();
  follow();
})();
