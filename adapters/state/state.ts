/**
 * State tuning: every layer begins a text with a learned WKV state, `time_state` [H, N, N] (head, value, key), instead of zeros; no
 * weight changes. Zeros at first, as in RWKV-PEFT, so training starts from the base model exactly.
 *
 * Merging puts the states into the model's file, where programs that know them (and this one) find them.
 *
 * @module
 */
import { stateShapes } from "../../rwkv/config.ts";
import type { AdapterMethod, Settings } from "../method.ts";
import { requireKnown } from "../settings.ts";

/** The method; registered as "state". */
export const state: AdapterMethod<Settings> = {
  name: "state",
  configure(given) {
    requireKnown("state", given, []);
    return {};
  },
  parameters: () => ({}),
  weights: (config) => new Map([...stateShapes(config)].map(([name, shape]) => [name, { shape }])),
  forward: ({ x, base }) => base(x),
  merge: ({ weight }) => weight,
  recognise: (_, __, { site, names }) =>
    site === undefined && names.some((name) => /^blocks\.\d+\.att\.time_state$/.test(name)) &&
      // A whole model may hold states as well.
      !names.includes("blocks.0.att.key.weight")
      ? {}
      : undefined,
};
