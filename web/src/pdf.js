// The text of a PDF, page by page. Loaded when the first PDF comes: it is larger than the rest of the page.
import * as pdf from 'pdfjs-dist/legacy/build/pdf.min.mjs'
import * as worker from 'pdfjs-dist/legacy/build/pdf.worker.min.mjs'

globalThis.pdfjsWorker = worker // read in this thread: the page's policy knows no worker

export async function textOf(data) {
  const task = pdf.getDocument({ data, isEvalSupported: false, useSystemFonts: false, disableFontFace: true })
  try {
    const book = await task.promise
    const pages = []
    for (let n = 1; n <= book.numPages; n++) {
      const { items } = await (await book.getPage(n)).getTextContent()
      pages.push(items.map((i) => (i.str ?? '') + (i.hasEOL ? '\n' : '')).join(''))
    }
    return pages.join('\n\n')
  } finally {
    await task.destroy()
  }
}
