/**
 * What is looked at on the way: the loss on text that training never sees, and samples from fixed prompts. The best
 * measurement's result is kept in `best/`, and a run that no longer gets better can be told to end.
 *
 * Everything is a function of the lines of `metrics.jsonl` up to a step, so a resumed run goes on judging as if it had not
 * been stopped.
 *
 * @module
 */
import { join } from "node:path";
import { makeFolder, writeFileAtomic } from "../formats/atomic.ts";
import type { Tokenizer } from "../rwkv/tokenizer/tokenizer.ts";
import type { Batches } from "./data/batches.ts";
import type { Learner } from "./learner.ts";
import type { TrainListeners } from "./listeners.ts";
import type { Metrics, MetricsLine } from "./metrics.ts";
import { promptsOf } from "./options.ts";
import type { LoadedPrograms } from "./programs.ts";
import { requireThere } from "./run_folder.ts";

/** One look at a run. */
export interface Look {
  /** Steps that had been taken; 0 before the first. */
  readonly step: number;
  /** Mean loss on the held-out text, in nats; undefined where none is held out. */
  readonly heldOutLoss: number | undefined;
  /** Text from each prompt. */
  readonly samples: readonly string[];
}

/** What a look is made with. */
export interface ValidationOptions {
  readonly learner: Learner;
  readonly programs: LoadedPrograms;
  readonly tokenizer: Tokenizer;
  readonly heldOut: Batches | undefined;
  readonly projDir: string;
  readonly metrics: Metrics;
  readonly listeners: TrainListeners & { onMessage: (message: string) => void };
  /** Steps between looks. */
  readonly every: number;
}

/** Looks at a run now and then and keeps its best. */
export class Validation {
  readonly #options: ValidationOptions;
  #looks: Look[];

  constructor(options: ValidationOptions) {
    this.#options = options;
    this.#looks = options.metrics.kept.filter((line) => "samples" in line).map(lookOf);
  }

  /** The look before the first step; undefined before there was one. */
  get first(): Look | undefined {
    return this.#looks.find(({ step }) => step === 0);
  }

  /** The latest look. */
  get last(): Look | undefined {
    return this.#looks.at(-1);
  }

  /** The look of the lowest held-out loss since training began; a loss that is no finite number is never the best. */
  get best(): { step: number; heldOutLoss: number } | undefined {
    return lowest(this.#looks.filter(({ step }) => step > 0));
  }

  /** Whether a look is due after a step. */
  due(step: number): boolean {
    return step % this.#options.every === 0;
  }

  /** How many due looks in a row have not been better than all before them; those at a stop in between do not count. */
  get inVain(): number {
    const due = this.#looks.filter(({ step }) => this.due(step) && step > 0);
    const best = lowest(due);
    return due.length - 1 - due.findIndex(({ step }) => step === best?.step);
  }

  /** Measures and writes samples at a step; a result that is the best so far is saved in `best/`. */
  async look(step: number): Promise<Look> {
    const { learner, tokenizer, metrics, projDir, listeners, heldOut } = this.#options;
    const { onMessage, onPhase } = listeners;
    if (heldOut) onPhase?.("measuring");
    const heldOutLoss = heldOut && await this.#measure(heldOut);
    const samples: string[] = [];
    for (const prompt of promptsOf(learner.settings)) {
      onPhase?.("writing samples");
      samples.push(await learner.sample(tokenizer, prompt));
    }
    const before = this.best;
    const look = { step, heldOutLoss, samples };
    this.#looks = [...this.#looks.filter((other) => other.step !== step), look];
    const perplexity = heldOutLoss === undefined ? undefined : Math.exp(heldOutLoss);
    metrics.write({
      step,
      ...(heldOutLoss === undefined ? {} : { heldOutLoss, heldOutPerplexity: perplexity }),
      samples,
    });
    const isBest = this.best?.step === step && this.best.heldOutLoss !== before?.heldOutLoss;
    if (heldOutLoss !== undefined) {
      const when = step === 0 ? "before" : `at step ${step}`;
      onMessage(
        `Held-out loss ${when}: ${heldOutLoss.toFixed(4)}, perplexity ${perplexity!.toFixed(2)}` +
          (isBest && before ? ", the best so far" : ""),
      );
    }
    if (isBest) {
      requireThere(projDir);
      const folder = join(projDir, "best");
      makeFolder(folder);
      await learner.save(folder);
      const measured = JSON.stringify({ step, heldOutLoss, heldOutPerplexity: perplexity }, null, 2);
      writeFileAtomic(join(folder, "measured.json"), measured + "\n", { force: true });
    }
    return look;
  }

  async #measure(heldOut: Batches): Promise<number> {
    const { programs, learner: { settings } } = this.#options;
    const count = Math.min(heldOut.batchesPerEpoch, settings.evalBatches);
    return await programs.measure(Array.from({ length: count }, (_, i) => heldOut.at(i)));
  }
}

/** JSON has no NaN and no infinity: they are written as null. */
function lookOf({ step, heldOutLoss, samples }: MetricsLine): Look {
  return {
    step,
    heldOutLoss: heldOutLoss === null ? NaN : heldOutLoss as number | undefined,
    samples: samples as string[],
  };
}

/** The first of the lowest finite losses. */
function lowest(looks: readonly Look[]): { step: number; heldOutLoss: number } | undefined {
  let best: { step: number; heldOutLoss: number } | undefined;
  for (const { step, heldOutLoss = NaN } of looks) {
    if (Number.isFinite(heldOutLoss) && !(best && best.heldOutLoss <= heldOutLoss)) {
      best = { step, heldOutLoss };
    }
  }
  return best;
}
