// Model output to DOM. Marked makes HTML, DOMPurify lets through what is harmless, KaTeX fills in the formulas as nodes: the page's
// policy forbids inline styles and HTML from strings, and nothing a model writes can ask for either.
import DOMPurify from 'dompurify'
import { Marked } from 'marked'
import { signal } from '@preact/signals'

export const tools = signal({}) // {katex, hljs}: loaded after the first paint

export async function loadTools() {
  const [katex, hljs] = await Promise.all([import('katex'), import('highlight.js/lib/common')])
  tools.value = { katex: katex.default, hljs: hljs.default }
}

const LONG_LINE = 8_000 // longer ones are shown as they are: Markdown's rules are slow on them, and nobody writes them
const LONG_CODE = 50_000
const INLINE_TAGS = /^<\/?(?:b|i|u|s|em|strong|sub|sup|kbd|mark|small|br)\s*\/?>$/i

const escape = (text) => text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c])

// `$` opens a formula only where a formula can stand: not in `$120`, not in "$5 and you have 3$".
function dollars(src) {
  const found = /^\$(?![\s$])((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d)/.exec(src)
  if (!found) return null
  const prose = /^\d/.test(found[1]) && /[a-z]{2,}[ ,.]/i.test(found[1]) && !found[1].includes('\\')
  return prose ? null : found
}

function inlineMath(src) {
  let found
  if ((found = /^\\\(([\s\S]+?)\\\)/.exec(src))) return { raw: found[0], tex: found[1], display: false }
  if ((found = /^\\\[([\s\S]+?)\\\]/.exec(src))) return { raw: found[0], tex: found[1], display: true }
  if ((found = /^\$\$([^$]+?)\$\$/.exec(src))) return { raw: found[0], tex: found[1], display: true }
  if ((found = dollars(src))) return { raw: found[0], tex: found[1], display: false }
  return null
}

function blockMath(src) {
  const found =
    /^ {0,3}\\\[([\s\S]+?)\\\][ \t]*(?:\n|$)/.exec(src) ??
    /^ {0,3}\$\$([\s\S]+?)\$\$[ \t]*(?:\n|$)/.exec(src) ??
    /^ {0,3}(\\begin\{(align|equation|gather|alignat|multline)(\*?)\}[\s\S]+?\\end\{\2\3\})[ \t]*(?:\n|$)/.exec(src)
  return found && { raw: found[0], tex: found[1], display: true }
}

const mathHtml = ({ tex, display }) =>
  display ? `<div class="math" data-tex="${escape(tex)}"></div>` : `<span class="math" data-tex="${escape(tex)}"></span>`
const token = (type, found) => found && { type, ...found }

const marked = new Marked({
  gfm: true,
  extensions: [
    {
      name: 'blockMath', level: 'block', renderer: mathHtml,
      start: (src) => /\n {0,3}(?:\\\[|\$\$|\\begin\{)/.exec(src)?.index,
      tokenizer: (src) => token('blockMath', blockMath(src)),
    },
    {
      name: 'inlineMath', level: 'inline', start: (src) => /\\[([]|\$/.exec(src)?.index,
      renderer: (t) => (t.display ? `<span class="math" data-tex="${escape(t.tex)}" data-display="1"></span>` : mathHtml(t)),
      tokenizer: (src) => token('inlineMath', inlineMath(src)),
    },
  ],
  renderer: {
    html: ({ text }) => (INLINE_TAGS.test(text.trim()) ? text : escape(text)),
    image: ({ href, text }) =>
      /^data:image\/(?:png|jpeg|gif|webp);/i.test(href)
        ? `<img src="${escape(href)}" alt="${escape(text)}">`
        : `<a href="${escape(href)}">${escape(text || href)}</a>`,
    code({ text, lang }) {
      const { hljs } = tools.value
      const name = /^[\w#+.-]+/.exec(lang ?? '')?.[0] ?? ''
      const known = hljs && text.length < LONG_CODE && hljs.getLanguage(name)
      const inside = known ? hljs.highlight(text, { language: name, ignoreIllegals: true }).value : escape(text)
      return `<pre data-lang="${escape(name)}"><code>${inside}</code></pre>`
    },
  },
})

export const PURE = {
  ALLOWED_TAGS: ('a b blockquote br code dd del div dl dt em h1 h2 h3 h4 h5 h6 hr i img input kbd li mark ol p pre s small span strong sub sup '
    + 'table tbody td th thead tr u ul').split(' '),
  ALLOWED_ATTR: ['align', 'alt', 'checked', 'class', 'data-display', 'data-lang', 'data-tex', 'disabled', 'href', 'src', 'start', 'title', 'type'],
  ALLOW_DATA_ATTR: false,
  ADD_URI_SAFE_ATTR: ['align', 'checked', 'data-display', 'data-lang', 'data-tex', 'disabled', 'start', 'type'],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#|data:image\/(?:png|jpeg|gif|webp);)/i,
  RETURN_DOM_FRAGMENT: true,
}

// Cuts a text into Markdown and lines that are too long for it; a fence that is open stays whole.
function parts(text) {
  const found = []
  let lines = []
  let fence = null
  const flush = () => lines.length && (found.push({ text: lines.join('\n') }), (lines = []))
  for (const line of text.split('\n')) {
    const mark = line.length < 200 && /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1]
    if (mark) fence = fence === null ? mark : mark.startsWith(fence) ? null : fence
    if (fence === null && (line.length > LONG_LINE || /^(?:\s*(?:[>*+-]|\d+[.)])\s*){30,}/.test(line.slice(0, 400)))) {
      flush()
      found.push({ text: line, plain: true })
    } else lines.push(line)
  }
  flush()
  return found
}

// The top-level blocks of a text: [{raw, plain, tokens}]. While it streams all but the last stay as they are.
export function blocks(text) {
  return parts(text).flatMap((part) => {
    if (part.plain) return [{ raw: part.text, plain: true }]
    try {
      const tokens = marked.lexer(part.text)
      return tokens.filter((t) => t.type !== 'space').map((t) => ({ raw: t.raw, tokens: Object.assign([t], { links: tokens.links }) }))
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
      return [{ raw: part.text, plain: true }] // nested deeper than the stack
    }
  })
}

export function render(block) {
  if (block.plain) {
    const p = document.createElement('p')
    p.className = 'plain'
    p.textContent = block.raw
    return p
  }
  const fragment = DOMPurify.sanitize(marked.parser(block.tokens), PURE)
  for (const a of fragment.querySelectorAll('a')) {
    if (!/^(?:https?:|mailto:)/i.test(a.getAttribute('href') ?? '')) a.removeAttribute('href')
    a.target = '_blank'
    a.rel = 'noopener noreferrer nofollow'
  }
  for (const input of fragment.querySelectorAll('input')) {
    input.type = 'checkbox'
    input.disabled = true
    input.setAttribute('aria-label', input.parentElement?.textContent.trim().slice(0, 80) || 'task')
  }
  for (const box of fragment.querySelectorAll('.math')) formula(box)
  for (const table of fragment.querySelectorAll('table')) wrap(table, 'scroll')
  return fragment
}

function wrap(node, name) {
  const box = document.createElement('div')
  box.className = name
  box.tabIndex = 0
  box.setAttribute('role', 'group')
  node.replaceWith(box)
  box.append(node)
  return box
}

const drawn = new Map() // formulas are drawn once and copied

function formula(box) {
  const { katex } = tools.value
  const tex = box.dataset.tex
  const displayMode = box.tagName === 'DIV' || box.dataset.display !== undefined
  const raw = () => (box.textContent = displayMode ? `\\[${tex}\\]` : `\\(${tex}\\)`)
  if (!katex || tex.length > 5_000) return raw()
  const name = `${displayMode}${tex}`
  if (!drawn.has(name)) {
    const node = document.createElement('span')
    try {
      katex.render(tex.trim(), node, { displayMode, throwOnError: true, strict: false, maxExpand: 200, maxSize: 20, trust: false })
    } catch (error) {
      if (!(error instanceof katex.ParseError || error instanceof RangeError)) throw error
      return raw()
    }
    if (drawn.size > 2_000) drawn.clear()
    drawn.set(name, node)
  }
  if (displayMode) box.classList.add('display')
  box.append(drawn.get(name).cloneNode(true))
}
