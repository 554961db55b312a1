// A filter: events whose JSON payload has a field of this value. Configuration: NAME=VALUE.

const rules = new Map();
const utf8 = new TextDecoder();
let nextRule = 0;

export const filtering = {
  configure(config) {
    const at = config.indexOf("=");
    if (at < 1) throw `want NAME=VALUE, got ${JSON.stringify(config)}`;
    const rule = nextRule++;
    rules.set(rule, { name: config.slice(0, at), value: config.slice(at + 1) });
    return [rule, { headers: { tag: "none" }, payload: true }];
  },

  release(rule) {
    rules.delete(rule);
  },

  evaluate(events, asked) {
    const matches = [];
    events.forEach((event, index) => {
      const document = parse(event.payload);
      for (const rule of asked) {
        const field = rules.get(rule);
        if (field && document && String(document[field.name]) === field.value) {
          matches.push({ event: index, rule });
        }
      }
    });
    return matches;
  },
};

function parse(payload) {
  try {
    return JSON.parse(utf8.decode(payload));
  } catch {
    return null;
  }
}
