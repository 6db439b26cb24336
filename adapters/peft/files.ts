/**
 * The files of a Hugging Face PEFT directory.
 *
 * @module
 */

/** What describes the adapter. */
export const CONFIG_FILE = "adapter_config.json";
/** What its tensors may be in; the first is what is written. */
export const WEIGHT_FILES = ["adapter_model.safetensors", "adapter_model.bin"] as const;
/** All that are read: naming one of them names the directory. */
export const PEFT_FILES: readonly string[] = [CONFIG_FILE, ...WEIGHT_FILES];
