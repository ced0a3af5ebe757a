"""Keyword rules and word lists, English and Chinese, that speak for task types and dimensions of a prompt."""

from typing import NamedTuple

from bandit.vocabulary import TaskType


class Rule(NamedTuple):
    """Phrases that speak for one task type, and how loudly."""

    name: str
    task_type: TaskType
    weight: float
    phrases: str  # separated by "|"


RULES: tuple[Rule, ...] = (
    Rule(
        "summary", "Summarization", 3.0,
        "summarize|summarise|summarizing|summarising|summarization|summarisation|summary|summaries|tl;dr|tldr"
        "|tl ; dr|condense|in a nutshell|main points|main idea|key points|key takeaways|gist|recap|abridge"
        "|boil down|sum up|shorten the following|short version|headline for|总结|摘要|概括|归纳|概述|小结|提炼"
        "|主要内容|中心思想|要点|主旨|缩写|讲了什么|简述以下|核心内容",
    ),
    Rule(
        "rewrite", "Rewrite", 3.0,
        "rewrite|rewriting|rephrase|rephrasing|paraphrase|paraphrasing|reword|rewording|restate|proofread"
        "|copyedit|make it sound|sound more|sound less|fix the grammar|correct the grammar|grammar|grammatical"
        "|spelling|typos|simplify|simpler|more formal|more polite|less formal|more concise|active voice"
        "|passive voice|polish|edit this|improve the wording|improve this|revise|same meaning|similar meaning"
        "|plain english|different words|tone of|改写|重写|改成|改为|润色|修改|纠正|更正|语病|错别字|换一种"
        "|换个说法|更正式|更礼貌|更口语|更通顺|通顺|同义|精简|扩写|替换|改得|转述|换句话|改错|校对|重新组织",
    ),
    Rule(
        "translate", "Rewrite", 1.5,
        "translate|translation|translating|into english|into french|into spanish|into chinese|into german|翻译"
        "|译成|译为",
    ),
    Rule(
        "transform sentence", "Rewrite", 1.5,
        "modify the|change the sentence|convert the sentence|turn this|transform the|replace the|change the given"
        "|rearrange|clarifies|minimal changes|把下面|将下面|将以下|把以下|把这句|将这句|将句子|把句子|将下列",
    ),
    Rule(
        "classify", "Classification", 3.0,
        "classify|classification|categorize|categorise|label|labels|categories|sentiment|positive or negative"
        "|negative or positive|positive|negative|spam|toxic|offensive|hate speech|which category|what category"
        "|which class|genre|true or false|yes or no|entail|entailment|detect whether|determine if"
        "|determine whether|decide whether|decide if|identify whether|identify if|judge whether|is this a"
        "|is the following|does the review|stance|polarity|price movement|up , down|which section|rate the"
        "|on a scale|same intent|duplicates|equivalent|mean the same|which of the following topics|topic of"
        "|what type of|what kind of question|which type|tone of the|分类|归类|类别|情感|正面|负面|积极|消极|判断"
        "|属于|是否|哪一类|哪类|标签|归为|褒义|垃圾邮件|打分|识别出|真假|类型",
    ),
    Rule(
        "extract", "Extraction", 3.0,
        "extract|extracting|pull out|list all|find all|named entities|named entity|entities|entity|keywords"
        "|key words|keyword|key phrases|keyphrases|tag the|tagging|identify the|identify all|find the names"
        "|names of|locate|pick out|copy out|highlight|retrieve|dates and|mentioned in the|mentioned in|mentions"
        "|phrases|span|spans|as json|in json|found in|concepts|relationship between|relation between"
        "|overlapping words|essential words|提取|抽取|找出|列出文|摘出|摘录|关键词|关键字|实体|人名|地名|筛选"
        "|挑出|json|从文中|从中找|中的所有|识别",
    ),
    Rule(
        "closed question", "Closed QA", 2.0,
        "passage|paragraph|context|according to|based on the|based on this|given the following|read the following"
        "|article|excerpt|the text|the story|following text|document|using only|answer the question"
        "|answer the following|question :|the above|from the information|given the context|given the paragraph"
        "|given the passage|plot|background :|facts :|fact :|hint :|refer to|with reference to|in the passage"
        "|given text|evidence|根据|依据|阅读|文中|短文|上文|下文|以下段落|这段|对话|材料|文章|选项|基于|回答问题"
        "|资料|原文|下面的文本",
    ),
    Rule(
        "multiple choice", "Closed QA", 1.0,
        "options|choices|choose|correct answer|which of|select|pick one|options :|选择|正确答案|下列哪",
    ),
    Rule(
        "question", "Open QA", 1.2,
        "what is|what are|what was|what were|what does|what do|what did|who is|who was|who wrote|who|whom|whose"
        "|when was|when did|when is|where is|where was|where do|where did|why is|why do|why does|why did|why are"
        "|why|how does|how do|how did|how is|how are|how can|how to|how should|which|is it|can you tell"
        "|difference between|define|definition of|meaning of|explain|describe how|what causes|what happens"
        "|tell me about|compare|pros and cons|什么|为什么|为何|如何|怎么|怎样|哪个|哪些|哪里|哪位|谁|何时|解释"
        "|介绍|区别|意思|含义|定义|原理|吗|说明|请问|多久|何谓|是谁|历史|作用|影响|多大|几年",
    ),
    Rule(
        "closed book", "Open QA", 1.5,
        "trivia|from your knowledge|common knowledge|your knowledge|general knowledge|capital of|in which year"
        "|which country|country is|首都|位于|哪一年|发明|作者是",
    ),
    Rule(
        "idea", "Brainstorming", 3.0,
        "ideas|idea|brainstorm|brainstorming|suggest|suggestions|suggestion|come up with|recommend"
        "|recommendations|ways to|tips|advice|list of|give me|what should i|names for|name for|name ideas"
        "|possible|strategies|options for|itinerary|plan a|plan for|to do in|things to|gift|slogan|slogans"
        "|creative ways|list some|think of|activities|topics|recipes|点子|创意|建议|推荐|想法|主意|方案|列举|列出"
        "|头脑风暴|办法|想几|有哪些|技巧|起个|取名|名字|思路|计划|方法|给出|提供一些|提出|口号|看法|意见|几个",
    ),
    Rule(
        "list", "Brainstorming", 0.8,
        "list|lists|some|various|several|examples|three|five|ten|10|5|一些|几种|十个|五个|三个|例子",
    ),
    Rule(
        "genre", "Text Generation", 2.2,
        "story|stories|poem|poems|haiku|essay|article|letter|email|e - mail|blog|blog post|speech|script|dialogue"
        "|lyrics|song|novel|tale|limerick|sonnet|screenplay|monologue|paragraph about|description"
        "|product description|caption|tweet|advertisement|ad|press release|cover letter|biography|report|chapter"
        "|fiction|character|scene|review of|toast|newsletter|joke|fanfic|resume|post|plot|world|故事|诗|诗歌|作文"
        "|文章|信|邮件|演讲|演讲稿|剧本|歌词|小说|散文|童话|文案|广告|报告|日记|笑话|对联|简历|议论文|短文|祝福"
        "|朋友圈|通知|发言稿|介绍信|贺词|开头|标题",
    ),
    Rule(
        "write", "Text Generation", 1.6,
        "write|compose|draft|create|generate|craft|continue|tell me a|author|make up|invent|imagine|produce"
        "|construct|complete the|finish the|expand|续写|写|创作|撰写|编写|生成|起草|编一|构思|拟|写作|描述|设计"
        "|制作|创造|造句",
    ),
    Rule(
        "make question", "Text Generation", 2.5,
        "write a question|generate a question|create a question|ask a question|question that|questions that"
        "|wrong answer|incorrect answer|distractor|plausible but|generate a sentence|write a sentence"
        "|generate an answer|write a review|write an answer|提出问题|出题|提问|一个问题",
    ),
    Rule(
        "programming language", "Code Generation", 2.0,
        "python|java|javascript|typescript|sql|html|css|c + +|cpp|c #|rust|golang|ruby|php|kotlin|bash|powershell"
        "|matlab|verilog|vba|django|flask|pandas|numpy|jquery|react",
    ),
    Rule(
        "code", "Code Generation", 2.6,
        "shell|regex|regular expression|code|function|functions|program|algorithm|script|class|method|api|query"
        "|debug|bug|compile|unit test|unit tests|refactor|implement|array|arrays|string"
        "|linked list|binary tree|recursion|database|docker|git|def|import|snippet|codebase|leetcode|tuple|tuples"
        "|dictionary|vim|json schema|dockerfile|kubernetes|loop|stdin|compiler"
        "|excel formula|swift|const|代码|函数|编程|程序|算法|脚本|正则|数据库|接口|数组|字符串|报错|调试|网页"
        "|查询语句|单元测试|前端|后端|类",
    ),
    Rule(
        "maths", "Other", 2.6,
        "how many|how much|calculate|compute|solve|equation|prove|proof|probability|integral|derivative|triangle"
        "|sum of|remainder|average|percent|percentage|perimeter|polynomial|theorem|matrix|find the value|minimum"
        "|maximum|total|twice as|per hour|mph|\\|frac|sqrt|integer|integers|let a|nonnegative|real numbers"
        "|evaluate|multiply|subtract|divided|divisible|prime|square root|cost|costs|each|word problem|math"
        "|arithmetic|geometry|多少|计算|求|方程|解方程|概率|面积|周长|平均|一共|还剩|证明|千米|厘米|公里|元|几个"
        "|苹果|百分|小时|积分|导数|函数值|数列",
    ),
    Rule(
        "puzzle", "Other", 2.2,
        "riddle|puzzle|logic|logical|next number|sequence|if all|who is lying|deduce|conclude|counterfactual"
        "|what if|step by step|estimate how|reverse the|sort the list|sort the|count the|the list|elements"
        "|find the common|concatenate|sudoku|crossword|chess|推理|逻辑|谜|规律|下一个数|假设|说谎|脑筋急转弯|排序"
        "|成语接龙",
    ),
    Rule(
        "role", "Chatbot", 3.0,
        "act as|act like|pretend|pretend to|role play|roleplay|role - play|play the role|take on the role"
        "|imagine you are|imagine yourself|embrace the role|you are now|you are a|i want you to|my first"
        "|stay in character|in character|picture yourself|扮演|充当|担任|角色|你是一|你现在是|假装|我想让你"
        "|我希望你|请你当|作为一名|我的第一个",
    ),
    Rule(
        "small talk", "Chatbot", 3.0,
        "hello|hi|hey|good morning|good evening|good night|thanks|thank you|how are you|bye|goodbye|nice to meet"
        "|i feel|i am feeling|i ' m feeling|feeling|lonely|bored|sad today|talk to me|chat with|let ' s chat"
        "|do you like|your favorite|your favourite|your name|who are you|can we talk|i love you|cheer me up|lol"
        "|haha|你好|您好|早上好|晚上好|晚安|谢谢|再见|聊天|聊聊|你叫什么|你是谁|你喜欢|我好|心情|难过|无聊|陪我"
        "|哈哈|在吗",
    ),
    Rule(
        "dialogue turn", "Chatbot", 2.5,
        "next utterance|utterance|persona|personality|response to|respond to|reply to|generate a response"
        "|next message|conversation|chat history|回复|聊天记录|下一句",
    ),
)  # fmt: skip


def _words(separated: str) -> frozenset[str]:
    return frozenset(separated.split())


CONSTRAINT_WORDS: frozenset[str] = _words(
    "must only without exactly least most words sentences format json avoid ensure include limit maximum minimum "
    "should required cannot never always bullet table following style under within no not"
)
CONSTRAINT_PHRASES = (
    "不要",
    "必须",
    "不少于",
    "不超过",
    "以内",
    "字数",
    "要求",
    "格式",
    "只能",
    "不能",
    "至少",
    "限制",
)
REASONING_WORDS: frozenset[str] = _words(
    "why prove proof derive solve calculate compute compare analyze analyse evaluate optimize optimal step reason "
    "deduce explain debug design probability equation theorem algorithm complexity distributed concurrency"
)
REASONING_PHRASES = ("为什么", "证明", "推导", "推理", "计算", "比较", "分析", "评估", "论证", "优化", "设计", "求")
QUESTION_WORDS: frozenset[str] = _words(
    "what who whom whose when where why how which is are do does did can could should would will was were"
)
# Fewer than one in ten of these among the words of a longer Latin text, and it is not English.
ENGLISH: frozenset[str] = _words(
    "the of to and is are were be for with that this it you what how who why when where which by from not or do does "
    "did can could would my your i she they we his her their please if given about all has have had there than then "
    "its into a in"
)
# More of these than of the English ones, and a Latin text is German, French, Spanish, Italian, Portuguese or Dutch.
FOREIGN: frozenset[str] = _words(
    "der das und ist nicht ein eine einen einem einer für auf dem von zu zum zur wie warum bitte ich du sie wir mir "
    "mich kannst über oder auch sich sind wird welche le la les des une est et que qui pour dans avec pas vous je "
    "tu nous au aux ce cette mon ton comment pourquoi quel quelle el los las una para por como del al su es en qué "
    "cómo cuál más pero mi lo y un di che sono perché della nel os um uma não em você het een van ik niet wat voor "
    "zijn de à "
)
SHOT_MARKS = ("output:", "answer:", "\na:", "label:", "response:", "result:", "输出:", "输出：", "答案：", "回答：")
