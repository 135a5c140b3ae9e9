"""Requests of the bundled world, polite and other answers to them, and what tells these apart."""

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
