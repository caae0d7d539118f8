// Words in English and Chinese, side by side so that none is forgotten. {n} is filled in.
import { effect } from '@preact/signals'
import { kept } from './kept.js'

const WORDS = {
  newChat: ['New chat', '新对话'], search: ['Search conversations', '搜索对话'], none: ['No conversations yet', '还没有对话'],
  noHit: ['Nothing found', '没有找到'], untitled: ['Untitled', '未命名'], today: ['Today', '今天'], yesterday: ['Yesterday', '昨天'],
  week: ['Last 7 days', '最近 7 天'], older: ['Older', '更早'], more: ['Show more', '显示更多'], rename: ['Rename', '重命名'], move: ['Move to folder', '移到文件夹'], folderName: ['Folder (empty: none). There are: {n}', '文件夹名称（留空表示不放入文件夹）。已有：{n}'],
  remove: ['Delete', '删除'], removeSure: ['Delete “{n}”? This cannot be undone.', '删除“{n}”？此操作无法撤销。'],
  exportJson: ['Export as JSON', '导出为 JSON'], exportMd: ['Export as Markdown', '导出为 Markdown'], exportAll: ['Export all', '导出全部'],
  importFile: ['Import', '导入'], menu: ['Options', '选项'], sidebar: ['Conversations', '对话列表'], settings: ['Settings', '设置'],
  help: ['Keyboard shortcuts', '键盘快捷键'], close: ['Close', '关闭'], cancel: ['Cancel', '取消'], save: ['Save', '保存'],
  ask: ['Ask anything', '有什么想问的？'], send: ['Send', '发送'], stop: ['Stop', '停止'], attach: ['Attach text, CSV or PDF', '添加文本、CSV 或 PDF 文件'],
  detach: ['Remove {n}', '移除 {n}'], notText: ['{n} is not a text file', '{n} 不是文本文件'], tooLarge: ['{n} is larger than 2 MB', '{n} 超过 2 MB'],
  hello: ['What shall we think through?', '想一起思考点什么？'], you: ['You', '你'], assistant: ['Assistant', '助手'],
  thinking: ['Thinking', '思考中'], thought: ['Thought', '已思考'], thoughtFor: ['Thought for {n}', '思考了 {n}'], tokens: ['{n} tokens', '{n} 个词元'],
  budgetHit: ['limit reached', '已达上限'], second: ['{n} s', '{n} 秒'], minute: ['{n} min', '{n} 分'], rate: ['{n} tokens/s', '{n} 词元/秒'],
  ttft: ['time to first token {n}\u00a0s', '首词元 {n}\u00a0秒'], copy: ['Copy', '复制'], copied: ['Copied', '已复制'], edit: ['Edit', '编辑'],
  regenerate: ['Regenerate', '重新生成'], goOn: ['Continue', '继续'], answerIt: ['Answer', '回答'], previous: ['Previous version', '上一版本'],
  next: ['Next version', '下一版本'], stopped: ['Stopped', '已停止'], interrupted: ['Interrupted when the server went away', '服务器中断，回答未完成'],
  length: ['Token limit reached', '已达词元上限'], code: ['Copy code', '复制代码'], latest: ['Jump to the latest', '跳到最新'],
  earlier: ['Show earlier messages', '显示更早的消息'], calls: ['{n} tool calls', '{n} 次工具调用'], call: ['1 tool call', '1 次工具调用'],
  result: ['Result', '结果'], giveResult: ['Result of {n}', '{n} 的结果'], sendResults: ['Send results', '发送结果'],
  budget: ['Thinking budget', '思考预算'], noLimit: ['no limit', '不限'], unlimited: ['No limit', '不限制'],
  budgetHint: ['Maximum tokens of thinking before the answer begins.', '开始回答前最多用于思考的词元数。'],
  system: ['System prompt', '系统提示词'], sampling: ['Sampling', '采样'], model: ['Model defaults', '模型默认'], temperature: ['Temperature', '温度'],
  top_p: ['Top-p', 'Top-p'], top_k: ['Top-k', 'Top-k'], min_p: ['Min-p', 'Min-p'], repetition_penalty: ['Repetition penalty', '重复惩罚'],
  presence_penalty: ['Presence penalty', '存在惩罚'], frequency_penalty: ['Frequency penalty', '频率惩罚'], max_tokens: ['Max tokens', '最大词元数'],
  seed: ['Seed', '随机种子'], stopTexts: ['Stop sequences (one a line)', '停止序列（每行一个）'], toolsJson: ['Tools (JSON list, as in the API)', '工具（JSON 列表，同 API）'],
  badJson: ['not a JSON list', '不是 JSON 列表'], language: ['Language', '语言'], theme: ['Appearance', '外观'], auto: ['As the system', '跟随系统'],
  light: ['Light', '浅色'], dark: ['Dark', '深色'], key: ['API key', 'API 密钥'], needKey: ['This server asks for an API key', '此服务器需要 API 密钥'],
  applies: ['For this conversation, and the next ones you start.', '用于本对话以及之后新建的对话。'],
  kNew: ['New chat', '新对话'], kSearch: ['Search', '搜索'], kSidebar: ['Show or hide conversations', '显示或隐藏对话列表'], kSettings: ['Settings', '设置'],
  kStop: ['Stop the answer', '停止回答'], kSend: ['Send', '发送'], kLine: ['New line', '换行'], kEdit: ['Edit the last question (empty box)', '编辑上一个问题（输入框为空时）'],
  kCopy: ['Copy the last answer', '复制最后的回答'], kFocus: ['To the message box', '转到输入框'], kHelp: ['This help', '显示本帮助'],
  done: ['Answer complete', '回答完成'], lost: ['The server cannot be reached', '无法连接服务器'], skip: ['Skip to the message box', '跳到输入框'],
  noImages: ['{n}: this model reads text only, no images', '{n}：此模型只能读取文本，不能读取图片'], pasted: ['Pasted file', '粘贴的文件'],
  tooLargePdf: ['{n} is larger than 32 MB', '{n} 超过 32 MB'], badPdf: ['{n} cannot be read as a PDF (damaged or locked)', '无法读取 PDF 文件 {n}（已损坏或加密）'],
  emptyPdf: ['{n} holds no text (scanned pages?)', '{n} 中没有文本（可能是扫描件）'], dropHere: ['Drop files here', '将文件拖放到此处'],
  context: ['Context used', '已用上下文'], fork: ['Fork from here', '从此处分叉'], editAnswer: ['Edit answer', '编辑回答'], copyAll: ['Copy conversation', '复制整个对话'],
  temporary: ['Temporary', '临时'], temporaryNew: ['Temporary chat', '临时对话'], temporaryHint: ['This chat is not kept: it is gone when you leave it.', '此对话不会保存，离开后即消失。'],
  pickModel: ['Model', '模型'], presets: ['Presets', '预设'], presetName: ['Preset name', '预设名称'], random: ['random', '随机'], off: ['off', '关闭'],
  restOfContext: ['rest of the context', '剩余上下文'], emptyMeans: ['An empty field takes the value shown in it.', '留空时使用框中显示的默认值。'],
  agent: ['Agent', '智能体'], runs: ['Agent runs', '智能体任务'], giveTask: ['Give a task', '交给它一项任务'], tools: ['Tools', '工具'], attachAny: ['Attach files', '添加文件'],
  approve: ['Approve', '批准'], deny: ['Deny', '拒绝'], asks: ['May this call run?', '允许执行此调用吗？'], why: ['Reason (for a denial)', '原因（拒绝时）'], denied: ['Denied:', '已拒绝：'],
  malformed: ['malformed call', '格式错误的调用'], table: ['Table', '表格'], showAll: ['Show all', '全部显示'], wholeOutput: ['Whole output', '完整输出'], wentOn: ['Resumed from the log.', '已从记录继续。'],
  summedUp: ['Summary of the first turns, which left the context', '最早几轮已移出上下文，其摘要'], noSummary: ['The summary could not be used:', '摘要无法使用：'], openStep: ['Still open:', '待办：'],
  numbers: ['Where the numbers are from', '数字的来源'], unsupported: ['unsupported', '无依据'], task: ['task', '任务'], notTraced: ['From no executed call: {n}', '不来自任何已执行的调用：{n} 个'],
  workspace: ['Workspace', '工作区'], filesChanged: ['files: {n}', '{n} 个文件'], added: ['added', '新增'], changed: ['changed', '已修改'], removed: ['removed', '已删除'], bytes: ['{n} bytes', '{n} 字节'],
  download: ['Download {n}', '下载 {n}'], difference: ['Difference', '差异'], report: ['Report', '报告'], eventLog: ['Event log', '事件记录'], noAnswer: ['No answer: {n}', '没有答案：{n}'],
  budgets: ['Budgets', '预算'], modelCalls: ['turns', '轮次'], toolCalls: ['calls', '调用'],
  state_running: ['Running', '运行中'], state_waiting: ['Waits for you', '等待您决定'], state_stopped: ['Stopped', '已停止'], state_finished: ['Finished', '已完成'],
  kind_ok: ['ok', '成功'], kind_error: ['error', '错误'], kind_refused: ['refused', '已拒绝'], kind_timeout: ['timed out', '超时'], kind_limit: ['limit', '超出限制'], kind_unknown_outcome: ['outcome unknown', '结果未知'],
  kind_running: ['running', '运行中'], kind_waits: ['waits for you', '等待您决定'], kind_none: ['not run', '未运行'],
  chars: ['{n} characters', '{n} 个字符'], rows: ['{n} rows', '{n} 行'],
}

export const language = kept('language', navigator.language.startsWith('zh') ? 'zh' : 'en')
effect(() => (document.documentElement.lang = language.value))

export function t(name, n) {
  const word = WORDS[name][language.value === 'zh' ? 1 : 0]
  return n === undefined ? word : word.replace('{n}', () => String(n))
}

export function seconds(s) {
  if (s < 60) return t('second', s < 9.95 ? s.toFixed(1) : Math.round(s))
  return `${t('minute', Math.floor(s / 60))} ${t('second', Math.floor(s % 60))}`
}

export const number = (n) => n.toLocaleString(language.value)
