"""The sentence patterns of the bundled world, task by task: tables in English and Chinese.

A pattern names its slots by role. For the role noun, {noun} is the bare word, {a_noun} is "an apple" or
"一个苹果", {one_noun} "一个", {measure} "个", {nouns} "apples" or (after a digit) "个苹果"; {a_colour} is
"an orange"; people have the pronouns {name_he}, {name_He}, {name_him}, {name_his}; {a_things} is "7 apples".
"""

from minigpt.data.world.words import ANIMALS, BELONGINGS, CLOTHES, DRINKS, FOODS, FRAGILE, TOYS, Word

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
