// What a run is asked for, from the environment: LEVEL, VUS, DURATION, BASE_URL, and the limits of latencies.

export const BASE_URL = (__ENV.BASE_URL || "http://127.0.0.1:3001").replace(/\/$/, "");

export const LEVEL = __ENV.LEVEL || "smoke";

/** The level's values, those named as the environment has them: `{ vus: 2 }` is set by VUS. */
export function settings(levels) {
  const chosen = levels[LEVEL];
  if (!chosen) throw new Error(`LEVEL is ${Object.keys(levels).join(" or ")}, not ${LEVEL}`);
  const set = { ...chosen };
  for (const name of Object.keys(chosen)) {
    const value = __ENV[name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()];
    if (value !== undefined && value !== "") set[name] = name === "duration" ? seconds(value) : number(name, value);
  }
  return set;
}

/** One long iteration for each VU, which stops by itself after `duration` seconds. */
export function once(vus, duration, exec) {
  return { executor: "per-vu-iterations", vus, iterations: 1, maxDuration: `${duration + 30}s`, gracefulStop: "0s", exec };
}

/** Iterations one after another for `duration` seconds. */
export function again(vus, duration, exec) {
  return { executor: "constant-vus", vus, duration: `${duration}s`, gracefulStop: "30s", exec };
}

function seconds(text) {
  const [, value, unit] = /^(\d+(?:\.\d+)?)(ms|s|m)?$/.exec(text) || [];
  if (!value) throw new Error(`DURATION is a time like 30s or 2m, not ${text}`);
  return Number(value) * { ms: 0.001, s: 1, m: 60 }[unit || "s"];
}

function number(name, text) {
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new Error(`${name} is a number, not ${text}`);
  return value;
}
