"""The vocabulary of the bundled world in English and Chinese."""

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
