// Tell Armwise how good a reply was: await feedback("/armwise")(reply.id, true, { user: "u-42" })
// Trying again is safe: one feedback counts for each decision, metric, source and user. Browsers, Node 18, Deno, Bun.
export const feedback = (url, { key, tries = 4, wait = (ms) => new Promise((done) => setTimeout(done, ms)) } = {}) =>
  async (decision_id, value, said = {}) => {
    const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
    const body = JSON.stringify({ decision_id, value, ...said });
    let problem;
    for (let count = 0; count < tries; count += 1) {
      if (count) await wait(250 * 4 ** (count - 1));
      try {
        const reply = await fetch(`${url}/v1/feedback`, { method: "POST", headers, body, redirect: "error", keepalive: true });
        if (reply.ok) return (await reply.json()).status;
        problem = new Error((await reply.json().catch(() => null))?.error?.message ?? `HTTP ${reply.status}`);
        if (![429, 502, 503, 504].includes(reply.status)) break;
      } catch (failure) {
        problem = failure;
      }
    }
    throw problem;
  };
