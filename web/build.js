// Bundles src/ into ../src/qwq/serve/static: `npm ci && npm run build`, or `make page`.
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { build } from 'esbuild'

const out = '../src/qwq/serve/static'
rmSync(out, { recursive: true, force: true })
mkdirSync(`${out}/assets`, { recursive: true })

const result = await build({
  entryPoints: { app: 'src/main.js', style: 'src/style.css', math: 'node_modules/katex/dist/katex.min.css', theme: 'src/theme.js' },
  outdir: `${out}/assets`,
  bundle: true, splitting: true, format: 'esm', minify: true, target: 'es2022', metafile: true,
  entryNames: '[name]-[hash]', chunkNames: 'part-[hash]', assetNames: '[name]-[hash]',
  // Every browser that runs the page reads woff2.
  loader: { '.woff2': 'file', '.woff': 'empty', '.ttf': 'empty' },
  legalComments: 'none',
})

const stamp = (file, data) => {
  const name = file.replace('.', `-${createHash('sha256').update(data).digest('hex').slice(0, 8)}.`)
  writeFileSync(`${out}/assets/${name}`, data)
  return name
}
const icon = stamp('icon.svg', readFileSync('src/icon.svg'))
const manifest = stamp('app.webmanifest', readFileSync('src/app.webmanifest', 'utf8').replace('{{icon.svg}}', `/assets/${icon}`))

const names = { 'icon.svg': icon, 'app.webmanifest': manifest }
for (const [file, about] of Object.entries(result.metafile.outputs)) {
  if (about.entryPoint) names[`${basename(about.entryPoint, '.js')}`] = basename(file)
}
writeFileSync(`${out}/index.html`, readFileSync('src/index.html', 'utf8').replace(/\{\{(.+?)\}\}/g, (_, name) => `/assets/${names[name]}`))

const used = new Set(Object.keys(result.metafile.inputs).map((f) => f.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean))
const licences = [...used].sort().map((name) => {
  const folder = `node_modules/${name}`
  const { version } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'))
  const texts = readdirSync(folder).filter((f) => /^licen[sc]e/i.test(f)).map((f) => readFileSync(`${folder}/${f}`, 'utf8').trim())
  return `${name} ${version}\n\n${texts.join('\n\n')}\n`
})
writeFileSync(`${out}/LICENSES.txt`, licences.join(`\n${'-'.repeat(80)}\n\n`))

// tests/page compares this with the tree, so that nobody forgets to build.
const sources = ['build.js', 'package.json', 'package-lock.json', ...readdirSync('src').sort().map((f) => `src/${f}`)]
const hash = createHash('sha256')
for (const file of sources) hash.update(`${file}\0`).update(readFileSync(file)).update('\0')
writeFileSync(`${out}/built-from.txt`, hash.digest('hex') + '\n')
