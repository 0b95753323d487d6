// What a user of the official Node SDK writes, as one program for the tests.
//
//   node client.mjs <base url> <model> <file>
//
// Prints one JSON object: the answer of each kind of call. The file is the form's first field, as in
// the SDK's own examples, so the model's name arrives after the audio.
import fs from 'node:fs';
import OpenAI, { NotFoundError } from 'openai';

const [baseURL, model, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 });
const transcribe = (options) =>
  client.audio.transcriptions.create({ file: fs.createReadStream(path), model, ...options });

const answers = {};
answers.json = await transcribe({});
answers.text = await transcribe({ response_format: 'text' });
answers.verbose_json = await transcribe({ response_format: 'verbose_json' });
answers.translation = await client.audio.translations.create({
  file: fs.createReadStream(path),
  model,
});

answers.events = [];
for await (const event of await transcribe({ stream: true })) answers.events.push(event);

answers.models = [];
for await (const each of client.models.list()) answers.models.push(each.id);

try {
  await transcribe({ model: 'nobody-serves-this' });
} catch (error) {
  if (!(error instanceof NotFoundError)) throw error;
  answers.unknown_model = { type: error.type, param: error.param, code: error.code };
}

console.log(JSON.stringify(answers));
