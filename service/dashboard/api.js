// Asking the service. The key lives in this tab's sessionStorage and nowhere else.

const KEY = "armwise-key";
const FRESH_MS = 4_000;
const recent = new Map();

export const savedKey = () => sessionStorage.getItem(KEY) ?? "";

export function saveKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  recent.clear();
}

// What the service refused, in its own words.
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  // The endpoint is not there: this version has no such thing.
  get absent() {
    return this.status === 404 || this.status === 405;
  }
}

async function call(path, init = {}) {
  const key = savedKey();
  const headers = { ...init.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...init, headers, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Refused(0, "The service does not answer. Is it running?");
  }
  const text = await response.text();
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  const body = isJson && text ? JSON.parse(text) : text;
  if (!response.ok && !(response.status === 503 && body?.status)) {
    const hint = [401, 403].includes(response.status) ? " Enter an API key at the top of the page." : "";
    throw new Refused(response.status, (body?.error?.message ?? `HTTP ${response.status}`) + hint);
  }
  return body;
}

// A query without what is empty.
export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

// GET. Panels that ask for the same within seconds share one call.
export function get(path, query = {}) {
  const url = address(path, query);
  const now = Date.now();
  for (const [known, { at }] of recent) if (now - at > FRESH_MS) recent.delete(known);
  if (!recent.has(url)) {
    const answer = call(url);
    recent.set(url, { at: now, answer });
    answer.catch(() => recent.delete(url));
  }
  return recent.get(url).answer;
}

// GET of what a version may not have, or of what does not exist yet: null then.
export const getIfThere = (path, query = {}) =>
  get(path, query).catch((error) => {
    if (error.absent) return null;
    throw error;
  });

export function post(path, body) {
  recent.clear(); // what was read may be different now
  return call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}
