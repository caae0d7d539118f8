// Files that go with a question, as text: picked, dropped anywhere on the page, or pasted.
import { t } from './i18n.js'
import { agentMode } from './runs.js'
import { current, files, notice } from './state.js'

const LARGEST = 2 << 20
const LARGEST_PDF = 32 << 20

const refuse = (word, file) => void (notice.value = t(word, file.name || t('pasted')))

const LARGEST_DATA = 32 << 20 // of a file for the agent, which takes it as it is

// A file as it is, in base64: the agent's tools read it, whatever it is.
const asIs = (file) => new Promise((done) => {
  const reader = new FileReader()
  reader.onload = () => done({ name: (file.name || t('pasted')).slice(0, 255).replaceAll(/[\\/]/g, '_'), size: file.size, data: reader.result.split(',')[1] ?? '' })
  reader.readAsDataURL(file)
})

async function read(file) {
  if (agentMode.value && !current.value) return file.size > LARGEST_DATA ? refuse('tooLargePdf', file) : asIs(file)
  if (file.type.startsWith('image/')) return refuse('noImages', file)
  const isPdf = file.type === 'application/pdf' || /\.pdf$/i.test(file.name)
  if (file.size > (isPdf ? LARGEST_PDF : LARGEST)) return refuse(isPdf ? 'tooLargePdf' : 'tooLarge', file)
  const name = (file.name || t('pasted')).slice(0, 255)
  const data = await file.arrayBuffer()
  if (isPdf) {
    try {
      const text = await (await import('./pdf.js')).textOf(data)
      return text.trim() ? { name, text } : refuse('emptyPdf', file)
    } catch {
      return refuse('badPdf', file)
    }
  }
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(data)
    if (!text.includes('\0')) return { name, text }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
  }
  return refuse('notText', file)
}

export async function add(list) {
  const fresh = (await Promise.all([...list].map(read))).filter(Boolean)
  files.value = [...files.value, ...fresh]
}

export const hasFiles = (transfer) => Boolean(transfer?.types.includes('Files'))
