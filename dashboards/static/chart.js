// The chart of the front: candidates by two metrics that the reader chooses, kept at the reader's zoom while it grows.
"use strict";

const Chart = (() => {
  const box = document.getElementById("chart");
  const nothing = document.getElementById("nothing");
  const [x, y] = [document.getElementById("x"), document.getElementById("y")];
  const GROUPS = [["partial", "stopped early", "circle-open"], ["paused", "paused at a rung", "square-open"],
    ["running", "running", "circle-open"], ["infeasible", "over budget", "x-thin-open"], ["dominated", "dominated", "circle"]];
  const state = { trials: [], front: null, objectives: [], least: {}, drawn: false, chosen: null, hovered: null };

  function update(trials, front, objectives) {
    state.trials = trials;
    state.front = front;
    state.objectives = objectives;
    fillAxes(objectives);
    draw();
  }

  function fillAxes(objectives) {
    const names = Object.keys(Metrics.known).filter((name) => state.trials.some((one) => name in one.metrics));
    const same = names.join() === [...x.options].map((one) => one.value).join();
    if (same || !names.length) return;
    const isCost = (name) => Metrics.known[name].unit !== "1" && Metrics.known[name].unit !== "nat";
    const up = y.value || objectives.find((name) => !isCost(name)) || objectives[0];
    const across = x.value || objectives.find((name) => name !== up) || "trainable_params";
    for (const [select, wanted] of [[x, across], [y, up]]) {
      select.replaceChildren(...names.map((name) => new Option(Metrics.short(name), name, false, name === wanted)));
    }
  }

  function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(); }

  function placed(trials) { return trials.filter((one) => x.value in one.metrics && y.value in one.metrics); }

  function hoverText(one) {
    const name = one.phase === "references" ? `reference ${one.origin}` : `trial ${one.number}, ${one.tag}`;
    const wanted = [...new Set([y.value, x.value, "ece", "ece_floor", "calibrated_ece", "calibrated_ece_floor", "calibrated_ece_p_value", "latency_ms"])].filter((key) => key in one.metrics);
    const values = wanted.map((key) => `${Metrics.short(key)} ${Metrics.format(key, one.metrics[key])}`);
    return [wrap(one.parts), name, ...values].map(escape).join("<br>");
  }

  // The chart library reads a few tags in its texts: none of ours may be one.
  function escape(text) { return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\u0000/g, "<br>"); }
  function wrap(text) { return text.replace(/ \+ /g, "\u0000+ ").slice(0, 400); }

  function points(trials, name, marker, more = {}) {
    return {
      type: "scatter", mode: "markers", name, marker, customdata: trials.map((one) => one.key),
      x: trials.map((one) => at(x.value, one)), y: trials.map((one) => at(y.value, one)),
      hovertext: trials.map(hoverText), hovertemplate: "%{hovertext}<extra></extra>", ...more,
    };
  }

  // A logarithmic axis has no zero: what is zero stands at half of the least that is not, and its text tells the truth.
  function at(name, one) {
    const value = one.metrics[name];
    return Metrics.isLog(name) && value <= 0 ? state.least[name] / 2 : value;
  }

  function least(name) {
    return Math.min(...state.trials.map((one) => one.metrics[name]).filter((value) => value > 0), 2 ** 50);
  }

  function traces() {
    const all = placed(state.trials);
    const search = all.filter((one) => one.phase === "search");
    state.least = { [x.value]: least(x.value), [y.value]: least(y.value) };
    const groups = GROUPS.map(([tag, name, symbol]) => points(search.filter((one) => one.tag === tag), name, {
      color: color(tag), symbol, size: 8, opacity: tag === "dominated" ? 0.75 : 1, line: { width: 1.6, color: color(tag) },
    })).filter((one) => one.x.length);
    const references = all.filter((one) => one.phase === "references").map((one) => referenceTrace(one, search));
    return [...references, ...groups, ...frontTraces(search), ...finalistTraces(search), ...predictorTraces(), ...rings(all)];
  }

  // References are levels to compare with, often far away across: a line as wide as the search.
  function referenceTrace(one, search) {
    const across = search.map((each) => at(x.value, each));
    const ends = across.length > 1 ? [Math.min(...across), Math.max(...across)] : [at(x.value, one)];
    const levels = search.map((each) => at(y.value, each)).sort((a, b) => a - b);
    const isHigh = at(y.value, one) > (levels[levels.length >> 1] ?? -Infinity);
    const label = `${one.origin}: ${Metrics.format(x.value, one.metrics[x.value])}`;
    return points(ends.map(() => one), "references", { symbol: "diamond-open", size: 7, color: color("reference") }, {
      mode: "lines+markers+text", x: ends, text: ends.map((_, index) => (index === 0 ? label : "")), textposition: isHigh ? "bottom right" : "top right",
      textfont: { color: color("reference"), size: 11.5 }, line: { dash: "dot", width: 1.2, color: color("reference") }, showlegend: false,
    });
  }

  function frontTraces(all) {
    const members = all.filter((one) => one.tag === "front").sort(alongFront);
    if (!members.length) return [];
    const isFront = state.objectives.length === 2 && state.objectives.every((name) => [x.value, y.value].includes(name));
    return [points(members, "front", { color: color("front"), size: 10, line: { width: 1.5, color: color("surface") } }, {
      mode: isFront ? "lines+markers" : "markers", line: { shape: "hv", width: 1.8, color: color("front") },
    })];
  }

  function alongFront(a, b) {
    const sign = (Metrics.known[x.value] || {}).direction === "maximize" ? -1 : 1;
    return sign * (a.metrics[x.value] - b.metrics[x.value]) || a.number - b.number;
  }

  function finalistTraces(all) {
    const again = state.front ? [...state.front.members, ...state.front.neighbours].filter((one) => one.validation[y.value]) : [];
    const found = again.map((one) => [all.find((trial) => trial.key === `search/${one.number}`), one.validation[y.value]]);
    const known = found.filter(([trial, one]) => trial && one.low !== null);
    if (!known.length) return [];
    return [{
      type: "scatter", mode: "markers", name: "mean of seeds, 95 %", hoverinfo: "skip",
      x: known.map(([trial]) => at(x.value, trial)), y: known.map(([, one]) => one.mean),
      marker: { symbol: "line-ew-open", size: 9, color: color("text"), line: { width: 1.5, color: color("text") } },
      error_y: { type: "data", array: known.map(([, one]) => (one.high - one.low) / 2), thickness: 1.2, width: 0, color: color("quiet") },
    }];
  }

  function predictorTraces() {
    const value = (one, name) => one.costs[name] ?? one.validation[name];
    const all = ((state.front && state.front.predictors) || []).filter((one) => one.kind !== "single");
    const known = all.filter((one) => value(one, x.value) !== undefined && value(one, y.value) !== undefined);
    if (!known.length) return [];
    const symbols = { seeds: "triangle-up-open", front: "triangle-down-open", dropout: "triangle-left-open", laplace: "triangle-right-open" };
    const place = (name) => known.map((one) => at(name, { metrics: { [name]: value(one, name) } }));
    const passes = (one) => `${one.passes} forward pass${one.passes > 1 ? "es" : ""}`;
    return [{
      type: "scatter", mode: "markers", name: "other predictors", x: place(x.value), y: place(y.value),
      marker: { symbol: known.map((one) => symbols[one.kind]), size: 10, color: color("pick"), line: { width: 2 } },
      hovertext: known.map((one) => `<b>${one.title}</b><br>${passes(one)}`), hovertemplate: "%{hovertext}<extra></extra>",
    }];
  }

  function rings(all) {
    const pick = state.front && state.front.pick ? `search/${state.front.pick.number}` : null;
    const ring = (key, name, tone, size) => {
      const one = all.find((trial) => trial.key === key);
      const marker = { symbol: "circle-open", size, color: color(tone), line: { width: 2.4, color: color(tone) } };
      return one ? [points([one], name, marker, { hoverinfo: "skip", hovertemplate: null, showlegend: name === "pick" })] : [];
    };
    return [...ring(pick, "pick", "pick", 18), ...ring(state.hovered || state.chosen, "chosen", "text", 15)];
  }

  function axis(name, length) {
    const about = Metrics.known[name] || { short: name, direction: "" };
    const log = Metrics.isLog(name);
    const values = state.trials.filter((one) => one.phase === "search").map((one) => at(name, one)).filter((value) => value > 0);
    const decades = Math.log10(Math.max(...values, 1) / Math.min(...values, 2 ** 50));
    const dtick = decades * 110 > length ? 1 : decades > 0.7 ? "D2" : "D1";
    return {
      title: { text: `${about.short} ${about.direction === "maximize" ? "↑" : "↓"}`, font: { size: 13 }, standoff: 12 },
      type: log ? "log" : "linear", gridcolor: color("line"), linecolor: color("line"), zeroline: false, automargin: true,
      tickfont: { color: color("quiet") }, ticks: "", ...(log ? { dtick, tickformat: "~s" } : {}),
    };
  }

  function layout() {
    const narrow = box.clientWidth < 560;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, hovermode: "closest", dragmode: narrow ? false : "zoom",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("text") },
      margin: { l: 56, r: narrow ? 12 : 24, t: 18, b: 44 }, xaxis: axis(x.value, box.clientWidth), yaxis: axis(y.value, box.clientHeight),
      legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { color: color("quiet"), size: 12 }, bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: color("surface"), bordercolor: color("line"), font: { family: getComputedStyle(document.body).fontFamily, color: color("text"), size: 12.5 }, align: "left" },
      uirevision: `${x.value}/${y.value}`,
    };
  }

  function draw() {
    const any = placed(state.trials).length > 0;
    x.closest(".axes").hidden = !any;
    box.hidden = !any;
    nothing.hidden = any;
    if (!any) return;
    Plotly.react(box, traces(), layout(), { displayModeBar: false, responsive: true, doubleClick: "reset" });
    if (state.drawn) return;
    state.drawn = true;
    box.on("plotly_click", (event) => {
      const key = event.points[0].customdata;
      if (key) Trials.choose(key, { scroll: true });
    });
  }

  function mark(what, key) {
    if (state[what] === key) return;
    state[what] = key;
    if (state.drawn) draw();
  }

  for (const select of [x, y]) select.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (state.drawn) draw(); });

  return { update, hover: (key) => mark("hovered", key), choose: (key) => mark("chosen", key) };
})();
