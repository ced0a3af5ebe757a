"""Clusters of words, English and Chinese, that say something about a task in pairs, such as "write" before "question".

They have no vote of their own: what a cluster, or a pair of them, speaks for is learned.
"""

# A cluster may go on in a further line of the same name.
_CLUSTERS = """
ask: ask|asks|asking|pose|formulate|query|提出|提问|询问
question: question|questions|问题|疑问|提问
answer: answer|answers|answered|answering|respond|reply|solution|答案|回答|解答|作答
wrong: wrong|incorrect|implausible|unlikely|misleading|distractor|distractors|false|错误|不正确|干扰|不合理
right: correct|right|best|proper|appropriate|plausible|正确|合适|恰当|最佳
sentence: sentence|sentences|statement|statements|claim|premise|hypothesis|句子|语句|句话|陈述
text: text|texts|passage|passages|paragraph|paragraphs|article|articles|document|excerpt|context|abstract|essay|文章
text: 文本|段落|短文|材料|内容|文字|段话|原文
source: review|reviews|tweet|tweets|comment|comments|post|headline|headlines|news|email|emails|message|feedback|评论
source: 留言|微博|新闻|邮件|帖子|消息
story noun: story|stories|narrative|plot|movie|film|book|novel|scene|character|故事|情节|电影|小说
sentiment: sentiment|positive|negative|neutral|polarity|emotion|emotions|mood|tone|attitude|satisfied|favorable
sentiment: happy|sad|angry|anger|joy|情感|情绪|正面|负面|积极|消极|态度|褒义|贬义
whether: whether|yes or no|true or false|is it|does it|if it|either|or not|agree|decide|determine|是否|是不是|对错
entails: entail|entails|entailed|entailment|contradict|contradicts|contradiction|imply|implies|follows from|support
entails: supports|supported|蕴含|矛盾|推出
same: same|equivalent|similar|identical|duplicate|duplicates|different|相同|一致|相似|不同
task frame: in this task|your task|your job|the task|you will be given|you are given|you ' re given|you are provided
task frame: you need to|you should|you have to|definition : instruction : instructions : 任务|指令
given: given|following|below|provided|above|here is|here are|these|给定|以下|下面|下列|上面|如下|所给
output: output|input|return|result|response : 输出|输入|返回|结果
category: category|categories|class|classes|topic|topics|label|labels|type|types|group|groups|section|stars|rating
category: kind of|类别|分类|标签|主题|类型|种类
word: word|words|phrase|phrases|token|tokens|term|terms|span|substring|adjective|verb|noun|词|短语|词语|单词|字
entity: name|names|person|persons|date|dates|location|locations|organization|organizations|place|places|event|events
entity: relation|relationship|subject|object|address|phone number|numbers|人名|地名|日期|时间|地点|人物|机构|组织
title: title|titles|headline|caption|subject line|标题|题目|题为
style: formal|informal|polite|politely|professional|concise|shorter|longer|clearer|clearly|fluent|passive|active
style: tense|simple|simpler|casual|natural|style|正式|礼貌|专业|简洁|通顺|流畅|口语|书面|语气|风格
meaning: meaning|synonym|synonyms|antonym|version|rewritten|wording|意思|同义|含义|原意|反义
continue: continue|continuation|next|ending|middle|beginning|finish|complete|completion|conclusion|续写|接着|补全
continue: 补充|结尾|开头|下一句
things: things|places|names|reasons|examples|steps|benefits|advantages|ways|options|foods|books|movies|songs
things: activities|ideas|items|methods|questions to|例子|理由|步骤|好处|优点|方面|措施|东西
explain: explain|explanation|describe|description|discuss|define|elaborate|clarify|outline|introduce|解释|说明|描述
explain: 介绍|阐述|讲解|简述
what: what|what ' s|whats|什么|啥
who: who|whom|whose|谁|哪位
when: when|what year|何时|几年|什么时候
where: where|哪里|哪儿|何处|在哪
why: why|reason|为什么|为何|原因
how: how|怎么|怎样|如何
which: which|哪个|哪些|哪一
how many: how many|how much|how long|how far|how old|多少|几个|多久|多长
error: error|errors|exception|traceback|warning|failed|fails|undefined|null|crash|stack trace|doesn ' t work
error: not working|报错|异常|错误提示|崩溃
code noun: array|file|files|table|column|columns|button|page|website|web page|server|app|application|loop|variable
code noun: variables|input|output|parameter|parameters|list|object|string|returns|module|package|数组|变量|文件|参数
code noun: 网站|页面|表格|列表
list work: sort|reverse|remove|count|element|elements|largest|smallest|maximum|minimum|sum|even|odd|concatenate
list work: duplicates|index|排序|去重|最大|最小|之和
quantity: dollars|cents|miles|hours|hour|minutes|days|weeks|percent|pounds|meters|feet|inches|times|half|twice|each
quantity: total|left|元|米|天|小时|分钟|千克|斤|倍
conversation: conversation|dialogue|dialog|chat|speaker|utterance|customer|user|assistant|human|对话|聊天|用户|顾客
conversation: 客服
you are: you are|you ' re|as a|as an|imagine|pretend|suppose|if you were|如果你是|作为|假设|假如|想象|你是
i am: i am|i ' m|i feel|i was|my|me|i have|i want|i need|i would like|我想|我要|我今天|我的|我是|帮我|给我
you: you|your|你|您
evidence: fact|facts|evidence|background|situation|hint|clue|information|knowledge|事实|背景|信息|资料|线索
options: options|choices|choose|select|pick|( a )|( b )|a )|b )|a .|b .|option|选项|选择|选出
best: recommend|top|good|great|popular|favorite|favourite|famous|fun|creative|unique|推荐|最好|有趣|好看|适合|著名
plan: plan|schedule|itinerary|trip|menu|routine|checklist|party|event|gift|计划|行程|清单|安排|聚会|旅行|活动
brief: brief|briefly|short|shorten|one sentence|single sentence|few words|highlights|succinct|简短|一句话|简要|简单
main: main|key|important|essential|central|major|overall|主要|关键|重要|核心|中心
label: q : question : answer : a : text : passage : context : sentence : input : output : review : article :
label: dialogue : title : paragraph : topic : summary : label : 问题 ：|答案 ：|输入 ：|输出 ：|文章 ：|文本 ：
label: 句子 ：
blank: _|__|___|____|_____|blank|fill in|填空|空格|填入
advert: product|advertisement|slogan|marketing|brand|customers|company|business|产品|广告|宣传|品牌|公司
change: change|modify|convert|turn|transform|replace|edit|adjust|make it|make this|改|变|转换|替换|调整|修改
find: find|identify|locate|detect|pick|choose|search|look for|spot|recognize|找|寻找|识别|查找
read: read|look at|consider|study|analyze|analyse|review the|阅读|读|看|分析
use: use|using|with|based on|according to|from|根据|使用|用|基于|按照|结合
help: help|assist|need|please|could you|can you|would you|帮|请|麻烦|能否|能不能
length: words|sentences|characters|lines|paragraphs|pages|at least|no more than|fewer than|字|行|以内|不少于|不超过
verse: poem|poems|haiku|song|lyrics|sonnet|limerick|rhyme|verse|rap|诗|歌词|诗歌|对联|绝句
fiction verbs: imagine|invent|make up|tell|create|design|想象|编|虚构|创造
school: teacher|student|students|class|exam|quiz|test|homework|老师|学生|考试|课堂|作业
greeting: hi|hello|hey|thanks|thank|bye|good morning|lol|haha|嗨|你好|谢谢|再见|早上好|晚安|哈哈
summary noun: summary|summaries|synopsis|overview|abstract|gist|recap|digest|highlights|摘要|概要|简介|梗概
paraphrase: paraphrase|paraphrases|paraphrased|paraphrasing|rephrase|rephrased|reword|restate|改写|转述
classify verb: classify|categorize|categorise|label|assign|grouped|sort into|分类|归类|划分
make verb: write|generate|create|make|produce|compose|construct|draft|provide|写|生成|创作|编写|撰写|造|提供|写出
suggest verb: suggest|recommend|propose|come up with|think of|brainstorm|advise|建议|推荐|想出|提出
list verb: list|name|enumerate|give me|give|show me|列出|列举|给出|说出
extract verb: extract|retrieve|copy|tag|highlight|mark|underline|annotate|提取|抽取|标注|摘录
fix verb: fix|correct|improve|edit|proofread|polish|revise|refine|纠正|润色|改正|优化|完善
solve verb: solve|calculate|compute|evaluate|find the value|prove|derive|simplify|计算|求|解|证明|求解
tell: tell me|tell|talk|say|says|speak|聊|说|讲
code verb: implement|debug|refactor|compile|run|execute|build|develop|deploy|install|import|实现|开发|调试|运行
small number: one|two|three|four|five|six|ten|1|2|3|4|5|10|一|两|三|五|十
mathematics: number|integer|equation|triangle|probability|polynomial|angle|radius|ratio|fraction|sequence|set|方程
mathematics: 三角形|概率|整数
recipe: recipe|recipes|ingredients|cook|cooking|dish|meal|food|菜谱|食材|做法|菜
letter noun: email|letter|note|memo|invitation|application|resume|cv|reply|邮件|信|简历|通知|邀请函
essay noun: essay|article|blog|report|speech|script|newsletter|proposal|作文|演讲|报告|稿|论文
language: english|chinese|french|german|spanish|japanese|language|italian|英语|中文|英文|法语|日语|语言
praise: love|loved|great|excellent|amazing|wonderful|perfect|enjoyed|happy with|满意|喜欢|很好
blame: terrible|worst|boring|disappointed|awful|bad|poor|waste|horrible|broken|差|失望|难吃|糟糕
job: teacher|doctor|coach|assistant|expert|developer|engineer|consultant|guide|advisor|therapist|writer|manager|专家
job: 助手|教练|顾问|医生
yes or no: yes|no|true|agree|disagree|neutral|unknown|是|否|对|错
compare: compare|contrast|difference|differences|versus|vs|between|similarities|区别|比较|对比|差异|不同
cause: cause|causes|effect|effects|impact|affect|result in|lead to|influence|影响|导致|作用
world: country|city|president|king|war|river|planet|century|capital|world|population|国家|城市|首都|世界|朝代
media: movie|film|song|album|band|actor|series|game|team|player|director|电影|歌|演员|球队|游戏
science: energy|cell|water|plant|animal|species|body|blood|light|temperature|disease|能量|细胞|植物|动物|温度|疾病
work life: job|career|interview|boss|colleague|meeting|project|client|sales|工作|面试|老板|同事|会议|项目
study: learn|study|understand|course|lesson|skills|practice|学习|掌握|课程|技能
how to: how to|how do i|how can i|how should i|how do you|steps to|ways to|如何|怎么样|怎样才能|步骤
define: meaning of|definition of|define|what is the|what does|refers to|known as|的定义|的含义|是指|什么叫
first person plan: i am going|i ' m planning|i plan|we are|we have|our|i ' m looking|我打算|我准备|我们
data: data|dataset|csv|json|xml|table|row|rows|column|record|records|数据|表格|字段
computer: computer|software|linux|windows|server|network|api|install|config|command|电脑|软件|服务器|命令
conclude: conclusion|conclude|infer|inference|deduce|therefore|logically|follows|推断|结论|推理
negation: not|don ' t|doesn ' t|cannot|can ' t|without|avoid|不要|不能|避免
pronoun text: it|this|that|them|这|它|此
polite: please|kindly|thank you|thanks|请|麻烦|谢谢
reader: child|kid|kids|beginner|audience|readers|year old|students|孩子|小学生|儿童|读者|新手
topic: about|on the topic|regarding|related to|on the subject|concerning|关于|有关|围绕|针对|主题
person: he|she|his|her|him|they|their|他|她|他们
past event: was|were|had|did|said|went|became|曾|了
"""


def _concepts() -> dict[str, str]:
    clusters: dict[str, str] = {}
    for name, phrases in (line.split(": ", 1) for line in _CLUSTERS.strip().splitlines()):
        clusters[name] = f"{clusters[name]}|{phrases}" if name in clusters else phrases
    return clusters


CONCEPTS: tuple[tuple[str, str], ...] = tuple(_concepts().items())
