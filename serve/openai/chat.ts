/**
 * Conversations as the text that a model reads, in the prompt format that it was taught.
 *
 * @module
 */
import { type PromptFormat, promptFormat } from "../../rwkv/prompt_format.ts";

/** A message of a conversation. */
export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** The format of a conversation with a model that was taught `stored`: RWKV's own where that says nothing of conversations. */
export function chatFormat(stored: string | undefined): PromptFormat {
  return promptFormat(stored === undefined || stored === "plain" ? "chat" : stored);
}

/** The text that an answer goes on from. */
export function chatPrompt(format: PromptFormat, messages: readonly Message[]): string {
  // What comes before an answer is rendered with one, and the answer left away.
  const { segments } = format.render([...messages, { role: "assistant", content: "." }]);
  return segments.slice(0, -1).map(({ text }) => text).join("");
}
