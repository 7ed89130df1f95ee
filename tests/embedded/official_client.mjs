// Drives the official JavaScript client against a server; prints what it saw as JSON.
import { createRequire } from "node:module";

const [address, folder, key, embedder] = process.argv.slice(2);
const { LMStudioClient, rawFunctionTool } = createRequire(`${folder}/`)("@lmstudio/sdk");
const seen = {};
const client = new LMStudioClient({ baseUrl: `ws://${address}`, verboseErrorMessages: false });

seen.downloaded = (await client.system.listDownloadedModels()).map(model => model.modelKey);
const progress = [];
const model = await client.llm.load(key, {
  config: { contextLength: 1024 },
  verbose: false,
  onProgress: value => progress.push(value),
});
seen.progress = [progress.at(0), progress.at(-1)];
seen.contextLength = await model.getContextLength();
seen.loaded = (await client.llm.listLoaded()).map(model => model.identifier);
seen.same = (await client.llm.model(key)).identifier === model.identifier;
seen.tokens = await model.tokenize("Hello world");

const chat = [{ role: "user", content: "What is the capital of France?" }];
const options = { temperature: 0, maxTokens: 12 };
seen.answer = (await model.respond(chat, options)).content;
seen.fragments = [];
const prediction = model.respond(chat, options);
for await (const fragment of prediction) seen.fragments.push(fragment.content);
const result = await prediction;
seen.stopReason = result.stats.stopReason;
seen.promptTemplate = await model.applyPromptTemplate(chat);

const city = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 } },
  required: ["city"],
  additionalProperties: false,
};
const structured = await model.respond("Where is the Louvre?", {
  temperature: 0,
  maxTokens: 40,
  structured: { type: "json", jsonSchema: city },
});
seen.structured = JSON.parse(structured.content);
const raw = await model.complete("One, two, three, four,", { temperature: 0, maxTokens: 4 });
seen.completed = raw.content;

seen.calls = [];
const add = rawFunctionTool({
  name: "add",
  description: "Add two numbers.",
  parametersJsonSchema: {
    type: "object",
    properties: { a: { type: "integer" }, b: { type: "integer" } },
    required: ["a", "b"],
  },
  implementation: ({ a, b }) => {
    seen.calls.push([a, b]);
    return a + b;
  },
});
const acted = await model.act("What is 17 + 25?", [add], {
  temperature: 0,
  maxTokens: 60,
  maxPredictionRounds: 2,
  // A model this small calls no tool of its own accord.
  toolChoice: { type: "generic", mode: "required" },
});
seen.rounds = acted.rounds;

const endless = model.respond("Tell me a very long story.", { temperature: 0 });
for await (const _ of endless) {
  await endless.cancel();
  break;
}
seen.cancelled = (await endless.result()).stats.stopReason;

const embedding = await client.embedding.load(embedder, { verbose: false });
seen.dimensions = (await embedding.embed("Hello")).embedding.length;
await embedding.unload();

const controller = new AbortController();
const aborted = client.llm.load(key, {
  identifier: "unwanted",
  verbose: false,
  signal: controller.signal,
  onProgress: () => controller.abort(),
});
seen.aborted = await aborted.then(() => "loaded", () => "aborted");

seen.error = await client.llm.load("no-such-model", { verbose: false }).then(
  () => "none",
  error => error.message,
);
await model.unload();
seen.unloadedError = await model.tokenize("Hello").then(() => "none", error => error.message);
seen.left = (await client.llm.listLoaded()).map(model => model.identifier);
console.log(JSON.stringify(seen));
process.exit(0);
