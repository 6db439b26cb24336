/**
 * `peftConfig` of the methods that come with Wishbone: settings in the words of Hugging Face PEFT's configurations, which RWKV-PEFT
 * takes since October 2025 (`--peft miss --peft_config '{"r":8}'`), turned into the options that say the same.
 *
 * @module
 */
import { flag, OptionError, type TrainOptions } from "./options.ts";

/** The methods whose configuration has PEFT's names. */
const KNOWN = ["bone", "bat", "lora", "dora", "pissa"];

/** What a key of PEFT's says in options; undefined where it says what happens anyway. */
type Word = (value: unknown) => TrainOptions | undefined;

const SHARED: Readonly<Record<string, Word>> = {
  target_modules: (value) => ({ targetModules: value as string | string[] }),
  exclude_modules: (value) => ({ excludeModules: value as string | string[] }),
  layers_to_transform: (value) => ({ layersToTransform: value as number | number[] }),
  layers_pattern: (value) => ({ layersPattern: value as string | string[] }),
  task_type: () => undefined,
};

const MISS: Readonly<Record<string, Word>> = {
  ...SHARED,
  r: (value) => ({ boneConfig: { bone_r: value as number } }),
  mini_r: (value) => ({ boneConfig: { bone_mini_r: value as number } }),
  miss_dropout: (value) => ({ boneConfig: { bone_dropout: value as number } }),
  init_weights: (value) => {
    if (value === true || value === "mini") return undefined;
    if (value === "bat") return { boneConfig: { bone_mode: "bat" }, batAxis: "out" };
    throw new OptionError(`init_weights in --peft_config must be true, "bat" or "mini": it is ${value}`);
  },
};

const LORA: Readonly<Record<string, Word>> = {
  ...SHARED,
  r: (value) => ({ loraConfig: { lora_r: value as number }, pissaConfig: { pissa_r: value as number } }),
  lora_alpha: (value) => ({ loraConfig: { lora_alpha: value as number } }),
  lora_dropout: (value) => ({ loraConfig: { lora_dropout: value as number } }),
  use_rslora: (value) => ({ useRslora: value as boolean }),
  use_dora: (value) => value ? { peft: "dora" } : undefined,
  rank_pattern: (value) => ({ rankPattern: value as Record<string, number> }),
  alpha_pattern: (value) => ({ alphaPattern: value as Record<string, number> }),
  init_lora_weights: (value) => {
    const pissa = /^pissa(?:_niter_(\d+))?$/.exec(String(value));
    if (value === true || value === "default") return undefined;
    if (!pissa) {
      throw new OptionError(
        `init_lora_weights in --peft_config must be true, "pissa" or "pissa_niter_4": it is ${value}`,
      );
    }
    return { peft: "pissa", ...(pissa[1] ? { pissaConfig: { svd_niter: Number(pissa[1]) } } : {}) };
  },
};

const CONFIGS = ["boneConfig", "loraConfig", "pissaConfig"] as const;

/**
 * Options without PEFT's words. Those of a method registered from outside are left to it.
 * @throws OptionError for a word that PEFT's configuration of the method lacks, or one that an option says as well
 */
export function withoutPeftNames(options: TrainOptions): TrainOptions {
  const { peftConfig, ...others } = options, { peft = "bone" } = options;
  if (!peftConfig || !KNOWN.includes(peft)) return options;
  const words = peft === "bone" || peft === "bat" ? MISS : LORA;
  let result: TrainOptions = { ...others };
  const entries = Object.entries(peftConfig).filter(([, value]) => value !== null);
  const mini = peftConfig.init_weights === "mini";
  if (words === MISS && mini && peftConfig.mini_r === undefined) entries.push(["mini_r", 1]);
  for (const [key, value] of entries) {
    const word = Object.hasOwn(words, key) ? words[key] : undefined;
    if (!word) {
      throw new OptionError(
        `--peft_config has "${key}", which means nothing for ${peft}: there are ${
          Object.keys(words).join(", ")
        }`,
      );
    }
    if (key === "mini_r" && !mini) {
      // PEFT writes its default, which has no effect, into every configuration.
      if (value === 1) continue;
      throw new OptionError('mini_r in --peft_config goes with "init_weights":"mini": give both or neither');
    }
    const said = word(value) ?? {};
    for (const name of Object.keys(said) as (keyof TrainOptions)[]) {
      const settles = name === "peft" || (CONFIGS as readonly string[]).includes(name);
      if (!settles && result[name] !== undefined) {
        throw new OptionError(`--peft_config and ${flag(name)} say the same: leave one out`);
      }
    }
    for (const name of CONFIGS) {
      const [twice] = Object.keys(said[name] ?? {}).filter((part) => options[name] && part in options[name]);
      if (twice !== undefined) {
        throw new OptionError(`--peft_config and ${flag(name)} say the same: leave one out`);
      }
    }
    result = { ...result, ...said, ...merged(result, said) };
  }
  return result;
}

/** The configurations of both. */
function merged(a: TrainOptions, b: TrainOptions): TrainOptions {
  return Object.fromEntries(
    CONFIGS.flatMap((name) => a[name] || b[name] ? [[name, { ...a[name], ...b[name] }]] : []),
  );
}
