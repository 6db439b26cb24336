/**
 * Says how many tokens a model has, to a thread that would rather not read a stranger's file itself.
 *
 * @module
 */
import { openTensorFile } from "../formats/tensor_file.ts";
import { readModelConfig } from "../rwkv/model.ts";

addEventListener("message", (event) => {
  const scope = globalThis as unknown as Pick<Worker, "postMessage">;
  using file = openTensorFile((event as MessageEvent<string>).data);
  scope.postMessage(readModelConfig(file).vocabulary);
});
