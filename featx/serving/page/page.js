'use strict';
// The page of `featx serve`: sends pictures one by one, and shows each answer. Nothing is kept after it is closed.

const PARALLEL = 2;          // requests at one time
const SHOWN = 5;             // classes with a bar
const PREVIEW_PX = 480;      // longer side of a preview
const MOST_TRIES = 4;        // of a request that the busy server puts off

const find = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)} %`;
const state = { models: [], rows: [], waiting: [], running: 0, done: 0, token: '' };

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function headers() {
  return state.token ? { Authorization: `Bearer ${state.token}` } : {};
}

async function readModels() {
  const answer = await fetch('models', { headers: headers() });
  find('token-box').hidden = answer.status !== 401;
  if (answer.status === 401) {
    say(state.token ? 'The token is wrong' : 'This server needs a token');
    find('token').focus();
    return;
  }
  state.models = (await answer.json()).models;
  const select = find('model');
  select.replaceChildren(...state.models.map((model) => make('option', model.name)));
  find('model-box').hidden = state.models.length < 2;
  showModel();
}

function model() {
  return state.models[Math.max(0, find('model').selectedIndex)];
}

function showModel() {
  const { name, version, classes, test, explains, max_bytes: bytes } = model();
  find('title').textContent = name === 'latest' ? version : name;
  const known = classes.length > 8 ? `${classes.slice(0, 8).join(', ')} and ${classes.length - 8} more` : classes.join(', ');
  const { accuracy, accuracy_low: low, accuracy_high: high } = test;
  const tested = accuracy === undefined ? '' : `; right on ${percent(accuracy)} of the test pictures`
    + (low === undefined ? '' : ` (95 % interval ${percent(low)} to ${percent(high)})`);
  find('about').textContent = `${classes.length} classes: ${known}${tested}`;
  find('explain-box').hidden = !explains;
  find('limits').textContent = `Up to ${Math.floor(bytes / 2 ** 20)} MiB each. Pictures go to this server and nowhere else.`;
  document.documentElement.dataset.ready = 'yes';
}

function say(text) {
  find('status').textContent = text;
}

function add(files) {
  if (!files.length) return;
  if (!state.models.length) {
    say('The server has not answered yet');
    return;
  }
  for (const file of files) {
    const card = find('card').content.firstElementChild.cloneNode(true);
    const row = { file: file.name || 'pasted picture', card, answer: null, error: '', model: model().name, version: model().version };
    card.querySelector('h2').textContent = '…';
    card.querySelector('.file').textContent = row.file;
    card.classList.add('waiting');
    find('results').prepend(card);
    state.rows.push(row);
    state.waiting.push([row, file, !find('explain-box').hidden && find('explain').checked]);
  }
  count();
  while (state.running < PARALLEL && state.waiting.length) run();
}

async function run() {
  state.running += 1;
  while (state.waiting.length) {
    const [row, file, explain] = state.waiting.shift();
    await preview(row, file);
    try {
      row.answer = await predict(row, file, explain);
      row.error = row.answer.error || '';
    } catch (error) {
      row.error = error.message;
    }
    state.done += 1;
    show(row);
    count();
  }
  state.running -= 1;
}

async function preview(row, file) {
  const photo = row.card.querySelector('.photo');
  try {
    const bitmap = await createImageBitmap(file, { imageOrientation: 'from-image' });
    const scale = Math.min(1, PREVIEW_PX / Math.max(bitmap.width, bitmap.height));
    photo.width = Math.max(1, Math.round(bitmap.width * scale));
    photo.height = Math.max(1, Math.round(bitmap.height * scale));
    photo.getContext('2d').drawImage(bitmap, 0, 0, photo.width, photo.height);
    photo.setAttribute('aria-label', row.file);
    bitmap.close();
  } catch {  // not a picture, or one that browsers do not show, such as TIFF
    photo.hidden = true;
    row.card.querySelector('.no-preview').hidden = false;
  }
}

async function predict(row, file, explain) {
  const limit = model().max_bytes;
  if (file.size > limit - 4096) throw new Error(`the file has more than ${limit} bytes; make it smaller`);
  await file.slice(0, 1).arrayBuffer().catch(() => { throw new Error('the file cannot be read; is it still there?'); });
  for (let tries = 1; ; tries += 1) {
    const form = new FormData();
    form.append('images', file, row.file);
    form.append('model', row.model);
    form.append('explain', String(explain));
    let answer;
    try {
      answer = await fetch('predict', { method: 'POST', body: form, headers: headers() });
    } catch {
      throw new Error('the server cannot be reached');
    }
    const values = await answer.json().catch(() => ({}));  // another server on the way may answer with a page
    if (answer.status === 503 && tries < MOST_TRIES) {
      row.card.querySelector('h2').textContent = `The server is busy; trying again (${tries} of ${MOST_TRIES - 1})`;
      await new Promise((resume) => setTimeout(resume, 1000 * (Number(answer.headers.get('Retry-After')) || 1)));
      continue;
    }
    if (!values.predictions) throw new Error(values.error || `the server answered with status ${answer.status}`);
    row.version = values.version;
    return values.predictions[0];
  }
}

function show(row) {
  const { card, answer, error } = row;
  card.classList.remove('waiting');
  if (error) {
    card.classList.add('failed');
    card.querySelector('h2').textContent = 'Not classified';
    card.querySelector('.badges').replaceChildren(make('span', error, 'bad'));
    say(`${row.file}: ${error}`);
    return;
  }
  const shares = Object.entries(answer.probabilities).sort((one, other) => other[1] - one[1]);
  card.querySelector('tbody').replaceChildren(...shares.slice(0, SHOWN).map(([label, share]) => {
    const line = make('tr'), name = make('th', label), cell = make('td'), bar = make('div', undefined, 'bar'), fill = make('i');
    name.scope = 'row';
    name.style.width = `${Math.min(18, Math.max(...shares.slice(0, SHOWN).map(([one]) => one.length))) + 1}ch`;
    fill.style.width = `${100 * share}%`;
    bar.append(fill);
    cell.append(bar);
    line.append(name, cell, make('td', percent(share)));
    return line;
  }));
  if (answer.set) explainAnswer(row, answer);
  judge(row);
  say(`${row.file}: ${card.querySelector('h2').textContent}`);
}

function explainAnswer(row, { set: labels, note, probabilities, neighbours, unfamiliarity, heat, heat_method: method, heat_box: box }) {
  const list = row.card.querySelector('dl');
  const tell = (term, text) => list.append(make('dt', term), make('dd', text));
  tell('Possible', labels.length ? labels.join(', ') : 'none of the classes fits');
  if (note && labels.length === Object.keys(probabilities).length) tell('Note', note);  // nothing can be excluded
  const share = unfamiliarity > 99.5 ? 'all' : `${unfamiliarity?.toFixed(0)} % of the`;
  tell('Unfamiliar', unfamiliarity === null ? 'unknown: too few training pictures to compare with' : `more than ${share} known pictures`);
  row.card.querySelector('.alike').hidden = !neighbours.length;
  row.card.querySelector('.neighbours').replaceChildren(...neighbours.map(({ label, similarity, item, jpeg }) => {
    const figure = make('figure');
    if (jpeg) Object.assign(figure.appendChild(make('img')), { src: `data:image/jpeg;base64,${jpeg}`, alt: '' });
    const caption = make('figcaption', `${label} `);
    caption.append(make('span', similarity.toFixed(2), 'quiet'));
    figure.append(caption);
    figure.title = item;
    return figure;
  }));
  const photo = row.card.querySelector('.photo');
  if (!heat || photo.hidden) return;
  const choice = row.card.querySelector('.heat-box'), canvas = row.card.querySelector('.heat');
  choice.hidden = false;
  choice.querySelector('span').textContent = `What speaks for it (${method})`;
  choice.querySelector('input').addEventListener('change', (event) => { canvas.hidden = !event.target.checked; });
  const cells = new ImageData(heat[0].length, heat.length), small = make('canvas');
  heat.flat().forEach((share, at) => cells.data.set([255, 200 * (1 - share), 0, 190 * share], 4 * at));
  Object.assign(small, { width: cells.width, height: cells.height }).getContext('2d').putImageData(cells, 0, 0);
  Object.assign(canvas, { width: photo.width, height: photo.height });  // so that both are laid out alike
  const sides = box.map((share, at) => share * (at % 2 ? photo.height : photo.width));  // a network may see only the middle
  canvas.getContext('2d').drawImage(small, ...sides);
}

function threshold() {
  return Number(find('threshold').value) / 100;
}

function judge(row) {
  if (!row.answer || row.error) return;
  const { label, probability, unfamiliar } = row.answer, certain = probability >= threshold();
  row.card.classList.toggle('uncertain', !certain);
  const head = row.card.querySelector('h2');
  head.textContent = certain ? `${label} ` : `Uncertain: perhaps ${label} `;
  head.append(make('span', percent(probability), 'quiet'));
  const badges = [];
  if (unfamiliar) badges.push(make('span', 'unfamiliar: unlike the pictures it was trained on', 'warn'));
  if (!certain) badges.push(make('span', `below ${find('threshold').value} %`, 'warn'));
  row.card.querySelector('.badges').replaceChildren(...badges);
}

function count() {
  const { rows, done } = state, failed = rows.filter((row) => row.error).length;
  const uncertain = rows.filter((row) => row.card.classList.contains('uncertain')).length;
  const parts = [`${done} of ${rows.length} pictures`];
  if (uncertain) parts.push(`${uncertain} uncertain`);
  if (failed) parts.push(`${failed} not classified`);
  find('summary').textContent = rows.length ? parts.join(', ') : '';
  find('save').disabled = find('clear').disabled = done === 0 || done < rows.length;
}

function formatCsv() {
  // A spreadsheet would run a cell that begins with one of these as a formula.
  const quote = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const names = ['file', 'decision', 'label', 'probability', 'possible', 'unfamiliar', 'unfamiliarity', 'model', 'version', 'error'];
  const lines = state.rows.map((row) => {
    const { label = '', probability = '', set = [], unfamiliar, unfamiliarity } = row.answer || {};
    const decision = row.error ? '' : probability >= threshold() ? label : 'uncertain';
    return [row.file, decision, label, probability, set.join(' | '), unfamiliar ?? '',
      unfamiliarity ?? '', row.model, row.version, row.error].map(quote).join(',');
  });
  return [names.join(','), ...lines, ''].join('\r\n');
}

function save() {
  const link = make('a');
  link.href = URL.createObjectURL(new Blob([formatCsv()], { type: 'text/csv' }));
  link.download = 'predictions.csv';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${state.rows.length} rows were saved`);
}

function start() {
  for (const id of ['files', 'camera']) {
    find(id).addEventListener('change', (event) => {
      add([...event.target.files]);
      event.target.value = '';
    });
  }
  const drop = find('drop');
  document.addEventListener('dragover', (event) => { event.preventDefault(); drop.classList.add('over'); });
  document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) drop.classList.remove('over'); });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    add([...event.dataTransfer.files]);
  });
  document.addEventListener('paste', (event) => add([...event.clipboardData.files]));
  find('threshold').addEventListener('input', () => {
    find('threshold-value').textContent = `${find('threshold').value} %`;
    state.rows.forEach(judge);
    count();
  });
  find('save').addEventListener('click', save);
  find('clear').addEventListener('click', () => {
    Object.assign(state, { rows: [], done: 0 });
    find('results').replaceChildren();
    count();
    find('files').focus();
  });
  find('model').addEventListener('change', showModel);
  find('token-box').addEventListener('submit', (event) => {
    event.preventDefault();
    state.token = find('token').value.trim();
    readModels();
  });
  readModels().catch(() => say('The server cannot be reached'));
}

start();
