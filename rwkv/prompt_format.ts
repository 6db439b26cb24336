/**
 * Prompt formats: how a conversation is written as the one text that an RWKV model reads.
 *
 * RWKV's own formats separate turns by a blank line, so a blank line inside a turn would end it: it becomes a plain line end, and
 * whoever renders is told how many turns were changed. What a model learns to write begins exactly where a prompt for it ends;
 * both come from here, so text that is generated continues what was trained.
 *
 * @module
 */

/** Under this name a model's file says how the conversations that it learnt are written. */
export const PROMPT_FORMAT = "prompt_format";

/** One turn of a conversation. */
export interface Turn {
  /** Who speaks. */
  readonly role: "system" | "user" | "assistant";
  /** What is said. */
  readonly content: string;
  /** What an instruction is applied to, where it is given apart. */
  readonly input?: string;
  /** What the assistant thought before it answered, where it is given apart. */
  readonly reasoning?: string;
}

/** A piece of a rendered conversation. */
export interface Segment {
  /** The text. */
  readonly text: string;
  /** Whether it is what the model is to write. */
  readonly isAnswer: boolean;
}

/** A conversation as text. */
export interface Rendered {
  /** Pieces in order; prompts and answers alternate. */
  readonly segments: Segment[];
  /** Turns in which blank lines became line ends. */
  readonly normalised: number;
  /** Answers whose reasoning the format has no place for. */
  readonly withoutReasoning: number;
}

/** A way to write conversations. */
export interface PromptFormat {
  /** Its name, or the template: what {@link promptFormat} takes and what is stored with an adapter. */
  readonly name: string;
  /** Writes a conversation. */
  render(turns: readonly Turn[]): Rendered;
  /** What a model is given to answer a user. */
  prompt(user: string, options?: { system?: string | undefined; input?: string | undefined }): string;
  /** The end of the prompt that belongs to the answer already, such as `<think`. */
  readonly begun: string;
  /** What ends an answer, besides the end of the document. */
  readonly stops: readonly string[];
}

/** Names of the built-in formats with what each gives a model to answer `X`. */
export const PROMPT_FORMATS: Readonly<Record<string, string>> = {
  "chat": "User: X\\n\\nAssistant:",
  "think": "User: X\\n\\nAssistant: <think",
  "ask-think": "User: X think\\n\\nAssistant: <think",
  "think-a-bit": "User: X think a bit\\n\\nAssistant: <think",
  "think-a-lot": "User: X think a lot\\n\\nAssistant: <think",
  "fake-think": "User: X\\n\\nAssistant: <think>\\n</think",
  "instruction": "Instruction: X\\n\\nResponse:",
  "plain": "X",
};

/** The prompt for what a user says; the text itself where it is written out already, as `User: Hi\n\nAssistant:` is. */
export function promptFor(
  format: PromptFormat,
  text: string,
  options: { system?: string | undefined } = {},
): string {
  const opening = format.prompt("\0").split("\0")[0]!.trimEnd();
  return opening !== "" && text.startsWith(opening) ? text : format.prompt(text, options);
}

/** How a format writes what comes before an answer, and the answer itself. */
interface Style {
  system(text: string): string;
  user(content: string, input: string | undefined): string;
  /** Comes right before what the model writes. */
  readonly opening: string;
  /** The part of it that belongs to the answer. */
  readonly begun: string;
  answer(content: string, reasoning: string | undefined): string;
  /** Stands between a turn and the next. */
  readonly separator: string;
  readonly stops: readonly string[];
  readonly hasReasoning: boolean;
  /** Whether blank lines inside a turn must go. */
  readonly normalises: boolean;
}

const withInput = (content: string, input: string | undefined) => input ? `${content}\n${input}` : content;

const BLANK_LINES = /\n(?:[ \t]*\n)+/g;

/** The text with LF for CRLF and no blanks around it. */
function trimmed(text: string): string {
  return text.replaceAll("\r\n", "\n").trim();
}

/** Whether a turn has blank lines inside. */
function hasBlankLines({ content, input, reasoning }: Turn): boolean {
  return [content, input, reasoning].some((part) => part && trimmed(part).search(BLANK_LINES) >= 0);
}

/** `<think>…</think>` and the answer, less what the opening has already. */
function thought(content: string, reasoning: string | undefined): string {
  if (reasoning === undefined && content.startsWith("<think>")) return content.slice("<think".length);
  return `>\n${reasoning ? `${reasoning}\n` : ""}</think>\n${content}`;
}

function chatStyle(asked: string, begun: string, answer: Style["answer"], hasReasoning: boolean): Style {
  return {
    system: (text) => `System: ${text}`,
    user: (content, input) => `User: ${withInput(content, input)}${asked}`,
    opening: `Assistant:${begun && ` ${begun}`}`,
    begun,
    answer,
    separator: "\n\n",
    stops: ["\n\nUser:", "\n\nSystem:"],
    hasReasoning,
    normalises: true,
  };
}

const spaced = (content: string) => ` ${content}`;

const STYLES: Readonly<Record<string, Style>> = {
  "chat": chatStyle("", "", spaced, false),
  "think": chatStyle("", "<think", thought, true),
  "ask-think": chatStyle(" think", "<think", thought, true),
  "think-a-bit": chatStyle(" think a bit", "<think", thought, true),
  "think-a-lot": chatStyle(" think a lot", "<think", thought, true),
  "fake-think": chatStyle("", "<think>\n</think", (content) => `>\n${content}`, false),
  "instruction": {
    system: (text) => text,
    user: (content, input) => `Instruction: ${content}${input ? `\n\nInput: ${input}` : ""}`,
    opening: "Response:",
    begun: "",
    answer: spaced,
    separator: "\n\n",
    stops: ["\n\nInstruction:", "\n\nInput:"],
    hasReasoning: false,
    normalises: true,
  },
  "plain": {
    system: (text) => text,
    user: withInput,
    opening: "",
    begun: "",
    answer: (content) => content,
    separator: "",
    stops: [],
    hasReasoning: false,
    normalises: false,
  },
};

/** Names by which a template may call what it is filled with. */
const PLACES: Readonly<Record<string, "system" | "user" | "input" | "answer">> = {
  system: "system",
  user: "user",
  prompt: "user",
  instruction: "user",
  input: "input",
  assistant: "answer",
  response: "answer",
  completion: "answer",
  output: "answer",
  answer: "answer",
};

/**
 * The format of a name or a template. A template such as `"Q: {prompt}\nA: {response}"` has one place for the answer, after the
 * user's; `\n` stands for a line end, as shells leave it. What follows the answer's place ends an answer.
 * @throws RangeError in one sentence
 */
export function promptFormat(nameOrTemplate: string): PromptFormat {
  const style = Object.hasOwn(STYLES, nameOrTemplate) ? STYLES[nameOrTemplate] : undefined;
  if (style) return styled(nameOrTemplate, style);
  if (!nameOrTemplate.includes("{")) {
    throw new RangeError(
      `Unknown prompt format "${nameOrTemplate}": there are ${Object.keys(STYLES).join(", ")}, ` +
        `or a template such as "Q: {prompt}\\nA: {response}"`,
    );
  }
  return template(nameOrTemplate);
}

function styled(name: string, style: Style): PromptFormat {
  const before = (system: string | undefined, user: string | undefined, input: string | undefined) =>
    [system && style.system(system), user !== undefined && style.user(user, input), style.opening]
      .filter((part) => part !== undefined && part !== false && part !== "").join(style.separator);
  const clean = (text: string) => style.normalises ? trimmed(text).replace(BLANK_LINES, "\n") : text;
  return {
    name,
    begun: style.begun,
    stops: style.stops,
    prompt: (user, { system, input } = {}) =>
      before(system && clean(system), clean(user), input && clean(input)),
    render(turns) {
      const segments: Segment[] = [];
      const add = (text: string, isAnswer: boolean) => {
        if (text !== "") segments.push({ text, isAnswer });
      };
      let normalised = 0, withoutReasoning = 0, context: string[] = [];
      turns.forEach((turn, i) => {
        const parts = [turn.content, turn.input, turn.reasoning].map((part) => part && clean(part));
        const [content = "", input, reasoning] = parts;
        if (style.normalises && hasBlankLines(turn)) normalised++;
        if (turn.role === "system") context.push(style.system(content));
        else if (turn.role === "user") context.push(style.user(content, input));
        else {
          if (reasoning && !style.hasReasoning) withoutReasoning++;
          if (style.opening) context.push(style.opening);
          add(context.join(style.separator), false);
          context = [];
          // The separator after an answer is the answer's: it is how a turn ends.
          add(style.answer(content, reasoning) + (i + 1 < turns.length ? style.separator : ""), true);
        }
      });
      add(context.join(style.separator), false);
      return { segments, normalised, withoutReasoning };
    },
  };
}

function template(source: string): PromptFormat {
  const text = source.replaceAll("\\n", "\n");
  const parts = text.split(/\{(\w+)\}/);
  const places = parts.filter((_, i) => i % 2 === 1);
  const unknown = places.find((place) => !Object.hasOwn(PLACES, place));
  if (unknown !== undefined) {
    throw new RangeError(
      `The prompt template has {${unknown}}, which is nothing: it may have {system}, {prompt}, {input} and {response}`,
    );
  }
  const answers = places.filter((place) => PLACES[place] === "answer").length;
  const users = places.filter((place) => PLACES[place] === "user").length;
  if (answers !== 1 || users !== 1 || PLACES[places.at(-1)!] !== "answer") {
    throw new RangeError(
      `The prompt template "${source}" must have one {prompt}, and after it one {response}`,
    );
  }
  const end = parts.at(-1)!;
  const fill = (values: Partial<Record<"system" | "user" | "input", string>>) =>
    parts.slice(0, -2).map((part, i) =>
      i % 2 ? values[PLACES[part] as "system" | "user" | "input"] ?? "" : part
    ).join("");
  return {
    name: source,
    begun: "",
    stops: end === "" ? [] : [end],
    prompt: (user, { system, input } = {}) =>
      fill({ user, ...(system ? { system } : {}), ...(input ? { input } : {}) }),
    render(turns) {
      const segments: Segment[] = [];
      let system: string | undefined, user: Turn | undefined, withoutReasoning = 0;
      for (const turn of turns) {
        if (turn.role === "system") system = turn.content;
        else if (turn.role === "user") user = turn;
        else {
          const values = {
            ...(system ? { system } : {}),
            ...(user ? { user: user.content } : {}),
            ...(user?.input ? { input: user.input } : {}),
          };
          segments.push({ text: fill(values), isAnswer: false });
          segments.push({ text: turn.content + end, isAnswer: true });
          if (turn.reasoning) withoutReasoning++;
          system = user = undefined;
        }
      }
      return {
        segments: segments.filter(({ text }) => text !== ""),
        normalised: 0,
        withoutReasoning,
      };
    },
  };
}

/** An answer as it is written, piece by piece: ends at a stop and never shows a part of one. */
export class Answer {
  #held = "";
  #ended = false;

  /** @param stops none of them empty */
  constructor(readonly stops: readonly string[]) {}

  /** Whether a stop has come. */
  get ended(): boolean {
    return this.#ended;
  }

  /** What can be shown once `text` has come; what may be the beginning of a stop is held back. */
  push(text: string): string {
    if (this.#ended) return "";
    this.#held += text;
    const found = this.stops.map((stop) => this.#held.indexOf(stop)).filter((at) => at >= 0);
    if (found.length) {
      this.#ended = true;
      return this.#release(Math.min(...found));
    }
    const begun = this.stops.map((stop) => beginning(this.#held, stop));
    return this.#release(this.#held.length - Math.max(0, ...begun));
  }

  /** What was held back, where no stop came of it. */
  end(): string {
    return this.#ended ? "" : this.#release(this.#held.length);
  }

  #release(length: number): string {
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return text;
  }
}

/** The length of the longest beginning of `stop` that `text` ends with. */
function beginning(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length;
  }
  return 0;
}
