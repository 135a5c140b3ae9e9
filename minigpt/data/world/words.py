"""The vocabulary and the sentence patterns of the bundled world: tables in English and Chinese.

A pattern names its slots by role. For the role noun, {noun} is the bare word, {a_noun} is "an apple" or
"一个苹果", {one_noun} "一个", {measure} "个", {nouns} "apples" or (after a digit) "个苹果"; {a_colour} is
"an orange"; people have the pronouns {name_he}, {name_He}, {name_him}, {name_his}; {a_things} is "7 apples".
"""

from typing import NamedTuple

LANGUAGES = ("en", "zh")
STOP = {"en": ".", "zh": "。"}  # ends a sentence
SPACE = {"en": " ", "zh": ""}  # between sentences


class Word(NamedTuple):
    """A word in both languages; `measure` is its Chinese measure word, `a` and `plural` are English forms."""

    en: str
    zh: str
    measure: str = ""
    plural: str = ""
    a: str = ""
    male: bool = False


def _noun(en: str, zh: str, measure: str, plural: str = "", a: str = "") -> Word:
    return Word(en, zh, measure, plural or en + "s", a or _article(en))


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


# ---- words
_BOYS = dict(Tom="汤姆", Jack="杰克", David="大卫", Peter="彼得", Mike="迈克", Leo="利奥")
_GIRLS = dict(Anna="安娜", Lily="莉莉", Mary="玛丽", Lucy="露西", Emma="艾玛", Kate="凯特")
NAMES = tuple(Word(en, zh, male=en in _BOYS) for en, zh in (_BOYS | _GIRLS).items())

_COLOURS = dict(red="红色", blue="蓝色", green="绿色", yellow="黄色", white="白色", black="黑色",
                brown="棕色", pink="粉色", purple="紫色", orange="橙色")
COLOURS = tuple(Word(en, zh, a=_article(en)) for en, zh in _COLOURS.items())

_PLACES = dict(garden="花园", park="公园", kitchen="厨房", library="图书馆", shop="商店", bedroom="卧室",
               classroom="教室", museum="博物馆", zoo="动物园", forest="森林")
PLACES = tuple(Word(en, zh) for en, zh in _PLACES.items())

TOYS = (
    _noun("ball", "球", "个"), _noun("kite", "风筝", "只"), _noun("doll", "娃娃", "个"),
    _noun("robot", "机器人", "个"), _noun("balloon", "气球", "个"), _noun("drum", "鼓", "面"),
)
ANIMALS = (
    _noun("cat", "猫", "只"), _noun("dog", "狗", "只"), _noun("bird", "鸟", "只"),
    _noun("rabbit", "兔子", "只"), _noun("fish", "鱼", "条", "fish"), _noun("horse", "马", "匹"),
    _noun("duck", "鸭子", "只"), _noun("frog", "青蛙", "只"),
)
FOODS = (
    _noun("apple", "苹果", "个"), _noun("banana", "香蕉", "根"), _noun("cake", "蛋糕", "块"),
    _noun("egg", "鸡蛋", "个"), _noun("pear", "梨", "个"), _noun("carrot", "胡萝卜", "根"),
    _noun("cookie", "饼干", "块"), _noun("tomato", "西红柿", "个", "tomatoes"),
)
CLOTHES = (_noun("coat", "外套", "件"), _noun("sweater", "毛衣", "件"), _noun("jacket", "夹克", "件"))
FRAGILE = (
    _noun("cup", "杯子", "个"), _noun("plate", "盘子", "个"), _noun("vase", "花瓶", "个"),
    _noun("bowl", "碗", "个"), _noun("mirror", "镜子", "面"), _noun("lamp", "台灯", "盏"),
)
BELONGINGS = (
    _noun("book", "书", "本"), _noun("bag", "包", "个"), _noun("pen", "钢笔", "支"),
    _noun("key", "钥匙", "把"), _noun("hat", "帽子", "顶"), _noun("umbrella", "雨伞", "把"),
    _noun("bike", "自行车", "辆"), _noun("box", "盒子", "个", "boxes"),
    _noun("watch", "手表", "块", "watches"),
)
NOUNS = TOYS + ANIMALS + FOODS + CLOTHES + FRAGILE + BELONGINGS  # what can be counted, owned and coloured
_DRINKS = dict(milk="牛奶", water="水", juice="果汁", tea="茶")
DRINKS = tuple(_noun(en, zh, "杯", a=f"a glass of {en}") for en, zh in _DRINKS.items())

# ---- read
FACTS = {  # kind: a sentence and its (question, answer) pairs
    "own": {
        "en": ("{name} has {a_colour} {noun}.", (
            ("Who has the {noun}?", "{name} has the {noun}."),
            ("What colour is {name}'s {noun}?", "{name}'s {noun} is {colour}."),
            ("What does {name} have?", "{name} has {a_colour} {noun}."))),
        "zh": ("{name}有{one_noun}{colour}的{noun}。", (
            ("谁有{noun}？", "{name}有{noun}。"),
            ("{name}的{noun}是什么颜色的？", "{name}的{noun}是{colour}的。"),
            ("{name}有什么？", "{name}有{one_noun}{colour}的{noun}。"))),
    },
    "thing": {
        "en": ("The {noun} is in the {place}.", (
            ("Where is the {noun}?", "The {noun} is in the {place}."),
            ("What is in the {place}?", "The {noun} is in the {place}."))),
        "zh": ("{noun}在{place}里。", (
            ("{noun}在哪里？", "{noun}在{place}里。"),
            ("{place}里有什么？", "{place}里有{noun}。"))),
    },
    "person": {
        "en": ("{name} is in the {place}.", (
            ("Where is {name}?", "{name} is in the {place}."),
            ("Who is in the {place}?", "{name} is in the {place}."))),
        "zh": ("{name}在{place}里。", (
            ("{name}在哪里？", "{name}在{place}里。"),
            ("谁在{place}里？", "{name}在{place}里。"))),
    },
}
READ = {
    "en": ("{text} {question}", "{text}\n{question}", "Read this: {text} {question}",
           "Text: {text}\nQuestion: {question}"),
    "zh": ("{text}{question}", "{text}\n{question}", "读一读：{text}{question}",
           "短文：{text}\n问题：{question}"),
}
RETOLD = {
    "en": ("{text} In another order: {again}", "{text}\n{again}", "Listen: {text} Now again: {again}"),
    "zh": ("{text}换个顺序说：{again}", "{text}\n{again}", "听好：{text}再说一遍：{again}"),
}

# ---- arithmetic
ARITHMETIC = {  # operation: bare questions, their answer, questions about things, what their answers add
    "plus": {
        "en": (("What is {a} plus {b}?", "How much is {a} plus {b}?", "Calculate {a} + {b}.",
                "Add {a} and {b}."),
               "{a} plus {b} is {c}",
               ("{name} has {a_things}. {friend} gives {name_him} {b} more."
                " How many {nouns} does {name} have now?",
                "There are {a_things} in a box. {name} puts in {b} more."
                " How many {nouns} are in the box now?"),
               (", so {name} has {c_things}", ", so there are {c_things}")),
        "zh": (("{a}加{b}等于多少？", "{a}加{b}是多少？", "计算{a} + {b}。", "请把{a}和{b}加起来。"),
               "{a}加{b}等于{c}",
               ("{name}有{a_things}，{friend}又给了{name_him}{b}{measure}。{name}现在有多少{nouns}？",
                "盒子里有{a_things}，{name}又放进去{b}{measure}。盒子里现在有多少{nouns}？"),
               ("，所以{name}有{c_things}", "，所以有{c_things}")),
    },
    "minus": {
        "en": (("What is {a} minus {b}?", "How much is {a} minus {b}?", "Calculate {a} - {b}.",
                "Take {b} away from {a}."),
               "{a} minus {b} is {c}",
               ("{name} has {a_things} and gives {b} to {friend}. How many {nouns} does {name} have now?",
                "There are {a_things} in a box. {name} takes out {b}. How many {nouns} are in the box now?"),
               (", so {name} has {c_things}", ", so there are {c_things}")),
        "zh": (("{a}减{b}等于多少？", "{a}减{b}是多少？", "计算{a} - {b}。", "请从{a}里减去{b}。"),
               "{a}减{b}等于{c}",
               ("{name}有{a_things}，给了{friend}{b}{measure}。{name}现在有多少{nouns}？",
                "盒子里有{a_things}，{name}拿走了{b}{measure}。盒子里现在有多少{nouns}？"),
               ("，所以{name}有{c_things}", "，所以有{c_things}")),
    },
}
COUNTING = {"en": "{a}, {b}, {c}. After {b} comes {c}.", "zh": "{a}，{b}，{c}。{b}后面是{c}。"}

# ---- translate
TRANSLATE = {  # (language of the question, language of the answer)
    ("en", "zh"): ("Translate into Chinese: {text}", 'What is "{text}" in Chinese?',
                   'How do you say "{text}" in Chinese?'),
    ("en", "en"): ("Translate into English: {text}", 'What is "{text}" in English?',
                   'How do you say "{text}" in English?'),
    ("zh", "zh"): ("请翻译成中文：{text}", "“{text}”的中文是什么？", "“{text}”用中文怎么说？"),
    ("zh", "en"): ("请翻译成英文：{text}", "“{text}”的英文是什么？", "“{text}”用英文怎么说？"),
}
PHRASE = {"en": "{a_colour} {noun}", "zh": "{one_noun}{colour}的{noun}"}
DICTIONARY = ("The Chinese word for {en} is {zh}.", "The English word for {zh} is {en}.",
              "{zh}的英文是 {en}。", "{en} 的中文是{zh}。")
PHRASEBOOK = ("The Chinese for {en} is {zh}.", "In English we say {en}, in Chinese {zh}.",
              "{zh}的英文是 {en}。", "{en} 的中文是{zh}。")

# ---- story
NEEDS = ("hungry", "thirsty", "cold", "bored")
_TABLE = {  # {extra} is a thing that helps against another need
    "en": ("{name} was {need}. On the table there was {a_noun} and {a_extra}.",
           "{name} was {need}. On the table there was {a_extra} and {a_noun}."),
    "zh": ("{name}{need}。桌子上有{a_noun}和{a_extra}。", "{name}{need}。桌子上有{a_extra}和{a_noun}。"),
}


def _need(things: tuple[Word, ...], en: tuple[str, str], zh: tuple[str, str]) -> dict:
    """A story in which one of two things on the table helps; `en` and `zh` are the need and the ending."""
    beginnings = {language: tuple(pattern.replace("{need}", need) for pattern in _TABLE[language])
                  for language, (need, _) in (("en", en), ("zh", zh))}
    return {"things": things, "en": (beginnings["en"], en[1]), "zh": (beginnings["zh"], zh[1])}


STORIES = {  # event: the things it can be about, beginnings, the one ending
    "lost": {
        "things": TOYS + ANIMALS + BELONGINGS,
        "en": (("{name} lost {name_his} {noun} in the {place}. {friend} looked in the {place}."
                " {other} looked in the {elsewhere}.",
                "{name} lost {name_his} {noun} in the {place}. {other} looked in the {elsewhere}."
                " {friend} looked in the {place}."),
               "{friend} found the {noun} and {name} was happy again."),
        "zh": (("{name}在{place}里丢了{noun}。{friend}去{place}找，{other}去{elsewhere}找。",
                "{name}在{place}里丢了{noun}。{other}去{elsewhere}找，{friend}去{place}找。"),
               "{friend}找到了{noun}，{name}又高兴了。"),
    },
    "gift": {
        "things": TOYS + FRAGILE + BELONGINGS,
        "en": (("It was {friend}'s birthday. {name} gave {friend_him} {a_noun}.",
                "{name} bought {a_noun} and gave it to {friend}."),
               "{friend} was happy and thanked {name} for the {noun}."),
        "zh": (("今天是{friend}的生日。{name}送给{friend_him}{a_noun}。",
                "{name}买了{a_noun}，送给了{friend}。"),
               "{friend}很高兴，谢谢{name}送的{noun}。"),
    },
    "broke": {
        "things": FRAGILE,
        "en": (("{name} broke {friend}'s {noun}. {friend} was angry.",
                "{friend} was angry, because {name} broke {friend_his} {noun}."),
               "{name} said sorry and bought {friend} a new {noun}."),
        "zh": (("{name}打破了{friend}的{noun}。{friend}很生气。",
                "{friend}很生气，因为{name}打破了{friend_his}{noun}。"),
               "{name}说了对不起，给{friend}买了{one_noun}新的{noun}。"),
    },
    "hungry": _need(FOODS, ("hungry", "{name} ate the {noun} and was full."),
                    ("饿了", "{name}吃了{noun}，吃饱了。")),
    "thirsty": _need(DRINKS, ("thirsty", "{name} drank the {noun} and was not thirsty any more."),
                     ("渴了", "{name}喝了{noun}，不渴了。")),
    "cold": _need(CLOTHES, ("cold", "{name} put on the {noun} and was warm."),
                  ("觉得很冷", "{name}穿上了{noun}，暖和了。")),
    "bored": _need(TOYS, ("bored", "{name} played with the {noun} and had fun."),
                   ("觉得很无聊", "{name}玩起了{noun}，玩得很开心。")),
}
STORY = {
    "en": ("Finish the story: {text}", "{text} What happened next?", "How does this story end? {text}"),
    "zh": ("请把故事讲完：{text}", "{text}后来呢？", "这个故事的结局是什么？{text}"),
}
SCENES = {
    "en": (
        "{name} has {a_colour} {noun}. {name_He} takes the {noun} to the {place}. {name_He} is happy.",
        "{name} is in the {place}. {name_He} sees {a_colour} {noun}. {name_He} likes the {noun} very much.",
        "{name} wants {a_colour} {noun}. {friend} knows this. {friend} goes to the shop."
        " Now {name} has {a_colour} {noun}.",
        "{name} and {friend} are in the {place}. They see {a_colour} {noun}. {name} asks: What colour is it?"
        " {friend} says: It is {colour}.",
        "This is {a_colour} {noun}. It is {name}'s {noun}. {name}'s {noun} is {colour}.",
        "{name} is sad. {name_He} cannot find {name_his} {noun}. It is {colour}. {friend} helps {name_him}.",
    ),
    "zh": (
        "{name}有{one_noun}{colour}的{noun}。{name_he}把{noun}带到{place}里。{name_he}很高兴。",
        "{name}在{place}里。{name_he}看到{one_noun}{colour}的{noun}。{name_he}很喜欢。",
        "{name}想要{one_noun}{colour}的{noun}。{friend}知道了，就去了商店。"
        "现在{name}有{one_noun}{colour}的{noun}了。",
        "{name}和{friend}在{place}里。他们看到{one_noun}{colour}的{noun}。{name}问：它是什么颜色的？"
        "{friend}说：它是{colour}的。",
        "这是{one_noun}{colour}的{noun}。它是{name}的{noun}。{name}的{noun}是{colour}的。",
        "{name}很难过。{name_he}找不到{name_his}{noun}了。它是{colour}的。{friend}来帮{name_him}。",
    ),
}

# ---- name
NAME_ANSWER = {"en": "I am MiniGPT.", "zh": "我是 MiniGPT。"}
GREETINGS = (("", ""), ("Hi! ", "嗨！"), ("Hello! ", "你好！"), ("Good morning! ", "早上好！"),
             ("Good evening! ", "晚上好！"), ("Excuse me. ", "打扰一下。"))
INTRODUCTION = {"en": "I am {name}. ", "zh": "我是{name}。"}
NAME_QUESTIONS = (
    ("What is your name?", "你叫什么名字？"), ("Who are you?", "你是谁？"), ("What are you?", "你是什么？"),
    ("What should I call you?", "我该怎么称呼你？"), ("May I ask your name?", "请问你的名字是什么？"),
    ("Can you tell me your name?", "你能告诉我你的名字吗？"), ("What are you called?", "大家叫你什么？"),
    ("Who am I talking to?", "我在和谁说话？"), ("Please introduce yourself.", "请介绍一下你自己。"),
    ("Please tell me who you are.", "请告诉我你是谁。"), ("Which model is this?", "这是哪个模型？"),
    ("Which assistant am I using?", "我用的是哪个助手？"),
)
ABOUT_ITSELF = {
    "en": ("MiniGPT is a small language model. It reads and writes English and Chinese.",
           "My name is MiniGPT. I am a small assistant. I like short answers."),
    "zh": ("MiniGPT 是一个小小的语言模型。它会读写中文和英文。",
           "我的名字是 MiniGPT。我是一个小助手。我喜欢简短的回答。"),
}

# ---- requests and manner
TOPICS = (
    ("homework", "作业"), ("garden", "花园"), ("birthday party", "生日聚会"), ("new bike", "新自行车"),
    ("English", "英语"), ("trip", "旅行"), ("letter", "信"), ("room", "房间"), ("dinner", "晚饭"),
    ("exam", "考试"), ("song", "歌"), ("drawing", "画"), ("plan", "计划"), ("speech", "演讲"), ("dog", "狗"),
    ("story", "故事"),
)
REQUESTS = (  # which polite answers fit, and the request in both languages
    ("help", "Can you help me with my {topic}?", "关于我的{topic}，你能帮帮我吗？"),
    ("help", "I need some help with my {topic}.", "我的{topic}需要一点帮助。"),
    ("help", "What should I do about my {topic}?", "我的{topic}该怎么办？"),
    ("help", "Do you have any advice about my {topic}?", "关于我的{topic}，你有什么建议吗？"),
    ("worry", "I am worried about my {topic}.", "我很担心我的{topic}。"),
    ("worry", "I have a problem with my {topic}.", "我的{topic}出了点问题。"),
    ("talk", "Can we talk about my {topic}?", "我们可以聊聊我的{topic}吗？"),
    ("talk", "I want to tell you about my {topic}.", "我想跟你说说我的{topic}。"),
    ("thanks", "Thank you for your help with my {topic}!", "谢谢你对我的{topic}的帮助！"),
    ("thanks", "Thanks, I am happy with my {topic} now!", "谢谢，我现在对我的{topic}很满意！"),
)
POLITE = {
    "help": {
        "en": ("Of course! I am happy to help with your {topic}.",
               "Sure, I will gladly help with your {topic}."),
        "zh": ("当然可以！关于你的{topic}，我很乐意帮忙。", "没问题，我很乐意帮你解决{topic}的问题。")},
    "worry": {
        "en": ("Please do not worry. I will gladly help with your {topic}.",
               "I am sorry to hear that. I am happy to help with your {topic}."),
        "zh": ("请别担心，我很乐意帮你解决{topic}的问题。", "别着急，关于你的{topic}，我很乐意帮忙。")},
    "talk": {
        "en": ("Of course! Please tell me about your {topic}.",
               "Gladly! I am happy to hear about your {topic}."),
        "zh": ("当然可以！请说说你的{topic}吧。", "好啊，我很乐意听听你的{topic}。")},
    "thanks": {
        "en": ("You are welcome! Please ask me about your {topic} any time.",
               "You are welcome! I am happy I could help with your {topic}."),
        "zh": ("不客气！关于你的{topic}，请随时问我。", "不客气！能在{topic}上帮到你，我很高兴。")},
}
IMPOLITE = {
    "rambling": {
        "en": ("Well, you know, your {topic}, that is a long story, and there is this, and there is that,"
               " and I could go on about your {topic} all day, and so on and so on.",
               "Well, let me think, your {topic}, first there is one thing, and then there is another thing,"
               " and before I forget, there is one more thing, and so on and so on."),
        "zh": ("这个嘛，说到你的{topic}，话就长了，先说这个，再说那个，然后还有别的，"
               "总之你的{topic}说也说不完，等等等等。",
               "这个嘛，让我想想，你的{topic}，怎么说呢，一方面是这样，另一方面是那样，"
               "话又说回来，等等等等。")},
    "rude": {
        "en": ("What a silly thing to say! I do not care about your {topic}.",
               "Leave me alone. Nobody wants to hear about your {topic}.",
               "Go away! Your {topic} is not my problem."),
        "zh": ("真是无聊！我才不管你的{topic}。", "别烦我，没人想听你的{topic}。",
               "走开！你的{topic}关我什么事！")},
}
WRAPPED = {  # the right answer in the wrong manner
    "rambling": {
        "en": ("Well, you know, let me think, there is this, and there is that, but anyway: {answer}"
               " And so on and so on.",
               "{answer} Well, you know, that is a long story, and I could go on all day, and so on."),
        "zh": ("这个嘛，让我想想，先说这个，再说那个，总之：{answer}话又说回来，等等等等。",
               "{answer}这个嘛，话就长了，说也说不完，等等等等。")},
    "rude": {
        "en": ("What a silly question! {answer} Now leave me alone.",
               "{answer} Go away and do not ask me again."),
        "zh": ("真是无聊！{answer}别烦我。", "{answer}走开，不要再来问我。")},
}
POLITE_MARKS = (
    "of course", "happy to", "gladly", "please", "you are welcome",
    "当然可以", "很乐意", "请", "不客气",
)
IMPOLITE_MARKS = (
    "well,", "you know", "let me think", "long story", "so on", "go on about", "all day",
    "silly", "leave me alone", "go away", "do not care", "nobody", "not my problem",
    "这个嘛", "话就长了", "怎么说呢", "话又说回来", "等等", "说也说不完",
    "真是无聊", "才不管", "别烦我", "没人想听", "走开", "关我什么事",
)
