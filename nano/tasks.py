"""Conversations made by grammar: requests for stories, questions, arithmetic, and the use of tools.

Every maker takes a random generator and gives a `Talk`. Names, paths, numbers and phrasings are combined at random, so
that of the many combinations only a part is in the training set, and held-out ones test whether the model has learned
to copy and to choose, not to remember. Thinking is short and always closed.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass, field

R = random.Random

SYSTEMS = [
    "You are a helpful assistant.",
    "You are Nano, a small and friendly assistant.",
    "You are a coding agent.",
    "Answer in short sentences.",
    "You tell stories to children.",
    "Be kind and brief.",
    "You are a helpful assistant with access to tools.",
]
NAMES = (
    "Tim Lily Ben Mia Tom Anna Max Sara Sam Lucy Jack Emma Leo Ella Joe Zoe Bob Amy Dan Sue Kim Ann Roy Eva Finn Rosa "
    "Hugo Nina Omar Ivy Paul Lena Karl Maya Noah Ruby Theo Alma Oscar Clara"
).split()
COLOURS = "red blue green yellow black white brown pink purple orange grey golden silver".split()
ADJECTIVES = (
    COLOURS
    + (
        "big small little old new tiny huge happy sad brave shy kind funny lazy busy quiet loud soft fluffy "
        "shiny magic lost broken lonely clever silly hungry sleepy tall young wise gentle fast slow round "
        "warm cold wet dry clean dirty strong pretty strange friendly grumpy curious wooden special"
    ).split()
)
NOUNS = (
    "boat dog cat bird ball tree house car train kite hat cake flower frog fish bear rabbit mouse horse cow duck pig "
    "fox lion bee boy girl king queen robot dragon monster star moon cloud river lake garden forest mountain bridge "
    "castle door key box book letter drum bell lamp clock chair table bed bike truck bus plane ship toy doll puppy "
    "kitten baby farmer baker doctor teacher pilot sailor fairy wizard giant snail turtle owl crow worm spider "
    "butterfly apple pear banana carrot pumpkin cookie pie egg shoe coat scarf sock button ribbon stone shell "
    "feather leaf rainbow puddle snowman"
).split()
VERBS = "walk run jump sing read play eat sleep draw swim dance cook clean build help laugh".split()
WORDS = (
    "alpha anchor apple arrow atlas autumn basket beacon berry blossom border bottle branch breeze brick bronze budget "
    "bundle butter button cabin candle canyon carbon castle cedar chapter cherry circle clover cobalt comet copper "
    "coral cotton cricket crystal daily delta desert draft ember engine falcon feather fern field final flint forest "
    "frost galaxy garden garlic ginger glacier granite harbor hazel helium honey index indigo iris island ivory "
    "jasmine "
    "journal jungle kernel lagoon lantern lemon letter lily linen log lunar maple marble market meadow melon meteor "
    "mint mirror module monthly morning motor nectar needle north notes nova oak ocean olive onyx orbit orchid "
    "outline oxide paper parcel pearl pebble pepper pine pixel planet plan plum pocket polar poppy prairie quartz "
    "quill rain raven recipe record reef report ribbon river robin rocket ruby saddle sage sample sand saturn scarlet "
    "setup shadow silver sketch smoke solar spark spruce star stone storm summer summit sunset table teapot temple "
    "thunder tiger timber todo topaz trail travel tulip tundra umber valley vector velvet violet walnut water weekly "
    "willow winter wool yarn zephyr zinc"
).split()
EXTENSIONS = "txt md py json csv log toml rs html yaml cfg sh js c".split()
FOLDERS = (
    "src docs data notes tests build home tmp lib logs config assets images scripts backup projects music photos"
).split()
STOP = set(
    "day time lot bit while way one few thing things part end side top day morning night moment place minute home "
    "said big little good very great new old other first next last best same then there here them they with once "
    "not mom dad mommy daddy man woman people everyone friend friends name fun right more too all".split()
)


@dataclass
class Talk:
    """A conversation as `chat.render` takes it."""

    messages: list[dict]
    tools: list[dict] = field(default_factory=list)
    thinking: bool = False


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(text: str, reasoning: str = "", calls: list | None = None) -> dict:
    return {"role": "assistant", "content": text, "reasoning": reasoning, "calls": calls or []}


def result(text: str) -> dict:
    return {"role": "tool", "content": text}


def opened(r: R, messages: list[dict], often: float = 0.3) -> list[dict]:
    """Now and then system text comes first."""
    system = [{"role": "system", "content": r.choice(SYSTEMS)}] if r.random() < often else []
    return system + messages


def a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


ASK_STORY = [
    "Tell me a story about {}.",
    "Write a story about {}.",
    "Please tell me a short story about {}.",
    "Can you tell me a story about {}?",
    "I want to hear a story about {}.",
    "Write a short story about {}",
    "Tell a story about {} for my little sister.",
    "A story about {}, please.",
    "Make up a story about {}.",
    "Could you write a little story about {}?",
    "Tell me about {} in a story.",
    "story about {}",
    "Write a bedtime story about {}.",
    "Let us hear a tale about {}.",
    "Give me a story with {} in it.",
    "Invent a short story. It should be about {}.",
    "Do you know a story about {}?",
]
ASK_ANY = [
    "Tell me a story.",
    "Write a short story.",
    "Can you tell me a story?",
    "I would like to hear a story.",
    "Tell me a bedtime story, please.",
    "Make up a little story.",
]
PLAN = [
    "The user wants a story about {}. I will tell a short one with a beginning, a middle and an end.",
    "A story about {}. I will start with who it is about, then what happens, and then how it ends.",
    "I need a simple story about {}. It should be short and clear.",
    "Let me think of {}. What could happen? I will tell it.",
]


def subjects(story: str, rare: Counter) -> list[str]:
    """What a story is about: things with an article that come up again, rare ones first, with their adjective."""
    head, found = story[:500].lower(), {}
    count = Counter(re.findall("[a-z]+", story.lower()))
    for adjective, noun in re.findall(r"\b(?:a|an|the) (?:([a-z]+) )??([a-z]{3,})\b", head):
        if noun in STOP or noun in ADJECTIVES or count[noun] + count[noun + "s"] < 3:
            continue
        if adjective in ADJECTIVES or noun not in found:
            found[noun] = f"{adjective} {noun}" if adjective in ADJECTIVES else noun
    return [found[noun] for noun in sorted(found, key=lambda noun: (rare[noun], noun))]


def nouns_of(stories: list[str]) -> Counter:
    """How many stories begin with each noun."""
    return Counter(
        noun for s in stories for noun in set(re.findall(r"\b(?:a|an|the) (?:[a-z]+ )??([a-z]{3,})\b", s[:500]))
    )


def prompted_story(r: R, story: str, rare: Counter) -> Talk:
    """A request for this very story."""
    about = [a(s) for s in subjects(story, rare)[:3]]
    named = re.search(r"\b(boy|girl|dog|cat|bird|bear|rabbit|mouse|frog|bunny) named ([A-Z][a-z]+)", story[:300])
    if named and r.random() < 0.3:
        about.insert(0, f"a {named[1]} named {named[2]}")
    thinking = r.random() < 0.5
    if not about or r.random() < 0.05:
        return Talk(
            opened(r, [user(r.choice(ASK_ANY)), answer(story, "The user wants a story. I will tell one.")]),
            [],
            thinking,
        )
    subject = about[0] if len(about) == 1 or r.random() < 0.7 else f"{about[0]} and {about[1]}"
    return Talk(
        opened(r, [user(r.choice(ASK_STORY).format(subject)), answer(story, r.choice(PLAN).format(subject))]),
        [],
        thinking,
    )


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.!?]+[.!?]+[\"”’]?\s*", text)


def continued_story(r: R, story: str) -> Talk | None:
    parts = sentences(story)
    if len(parts) < 5:
        return None
    n = r.randint(1, 3)
    ask = r.choice(
        [
            "Continue this story: {}",
            "Go on with the story: {}",
            "What happens next?\n\n{}",
            "Finish the story.\n\n{}",
            "Here is how a story begins: {} Write the rest.",
        ]
    )
    begun, rest = "".join(parts[:n]).strip(), "".join(parts[n:]).strip()
    plan = "The story has begun. I will go on from there and bring it to an end."
    return Talk(opened(r, [user(ask.format(begun)), answer(rest, plan)]), [], r.random() < 0.4)


def summary(r: R, story: str) -> Talk | None:
    """The first sentence or two that say who and what, and a question about the name."""
    parts = sentences(story)
    name = re.search(r"named ([A-Z][a-z]+)", story[:300])
    if len(parts) < 4 or len(story) > 900:
        return None
    first = parts[0].strip()
    body = re.sub(r"^(Once upon a time|One day),? ", "", first)
    short = f"The story is about this: {body[0].lower()}{body[1:]}" if body != first else first
    if name and r.random() < 0.5:
        ask = r.choice(["Who is this story about?", "What is the name in this story?", "Who is in the story?"])
        return Talk(
            opened(
                r,
                [
                    user(f"{ask}\n\n{story}"),
                    answer(f"The story is about {name[1]}.", f"I see the name {name[1]} at the beginning."),
                ],
            ),
            [],
            r.random() < 0.4,
        )
    ask = r.choice(
        [
            "Summarize this story in one sentence.",
            "What is this story about?",
            "Say in one sentence what this is about.",
            "Give me a short summary:",
        ]
    )
    return Talk(
        opened(r, [user(f"{ask}\n\n{story}"), answer(short, "The beginning says what it is about.")]),
        [],
        r.random() < 0.4,
    )


OPPOSITES = dict(
    pair.split(":")
    for pair in "hot:cold big:small tall:short fast:slow old:young happy:sad day:night up:down left:right open:closed "
    "wet:dry "
    "hard:soft loud:quiet rich:poor full:empty early:late light:dark near:far strong:weak clean:dirty good:bad "
    "high:low long:short thick:thin sweet:sour brave:afraid begin:end win:lose buy:sell love:hate".split()
)
SOUNDS = dict(
    dog="woof",
    cat="meow",
    cow="moo",
    duck="quack",
    sheep="baa",
    pig="oink",
    horse="neigh",
    lion="roar",
    bee="buzz",
    mouse="squeak",
    owl="hoot",
    frog="croak",
    rooster="cock-a-doodle-doo",
    snake="hiss",
)
FACTS = [
    line.split("|")
    for line in """What colour is the sky?|The sky is blue.
What colour is grass?|Grass is green.
What colour is snow?|Snow is white.
What colour is a banana?|A banana is yellow.
What colour is the sun?|The sun looks yellow.
What colour is a strawberry?|A strawberry is red.
How many days are in a week?|There are seven days in a week.
How many months are in a year?|There are twelve months in a year.
How many legs does a dog have?|A dog has four legs.
How many legs does a spider have?|A spider has eight legs.
How many legs does an ant have?|An ant has six legs.
How many wheels does a car have?|A car has four wheels.
How many wheels does a bike have?|A bike has two wheels.
What do bees make?|Bees make honey.
What do cows give us?|Cows give us milk.
What do birds use to fly?|Birds use their wings to fly.
Where do fish live?|Fish live in water.
What do we use to see?|We use our eyes to see.
What do we use to hear?|We use our ears to hear.
What falls from clouds?|Rain falls from clouds.
What is frozen water called?|Frozen water is called ice.
What is the capital of France?|The capital of France is Paris.
What is the capital of Italy?|The capital of Italy is Rome.
What is the capital of Spain?|The capital of Spain is Madrid.
What is the capital of Germany?|The capital of Germany is Berlin.
What is the capital of England?|The capital of England is London.
What is the capital of Japan?|The capital of Japan is Tokyo.
What is the capital of China?|The capital of China is Beijing.
What is the first month of the year?|The first month of the year is January.
What is the last month of the year?|The last month of the year is December.
What comes after Monday?|Tuesday comes after Monday.
What comes after Friday?|Saturday comes after Friday.
What do plants need to grow?|Plants need water, light and air to grow.
What shines at night?|The moon and the stars shine at night.
Is the sun hot or cold?|The sun is very hot.
Is ice hot or cold?|Ice is cold.
Can a fish walk?|No, a fish cannot walk. It swims.
Can a bird fly?|Yes, most birds can fly.
Can a stone swim?|No, a stone sinks in water.
What is a baby dog called?|A baby dog is called a puppy.
What is a baby cat called?|A baby cat is called a kitten.
What is a baby cow called?|A baby cow is called a calf.
What season comes after winter?|Spring comes after winter.
What season comes after summer?|Autumn comes after summer.""".splitlines()
]
TALK = [
    line.split("|")
    for line in """Hello|Hello! How can I help you?
Hello!|Hello! What can I do for you?
Hi|Hi! What would you like to do?
Hi there|Hi! How can I help?
Hey|Hey! What can I do for you?
Good morning|Good morning! How can I help you today?
Good evening|Good evening! What can I do for you?
How are you?|I am fine, thank you. How are you?
Thank you|You are welcome!
Thanks!|You are welcome!
Thank you very much.|You are welcome! I am happy to help.
Bye|Goodbye!
Goodbye|Goodbye! Have a nice day.
Good night|Good night! Sleep well.
Who are you?|I am Nano, a very small model with the structure of DeepSeek V4.
What are you?|I am Nano, a tiny language model. I can tell stories and use simple tools.
What is your name?|My name is Nano.
What can you do?|I can tell short stories, answer simple questions, do small sums and use tools.
Are you a robot?|I am a small language model called Nano.
Can you help me?|Of course. What do you need?
Tell me a joke.|Why did the bike fall over? It was two tired.
I am sad.|I am sorry to hear that. Do you want to tell me what happened?
I am happy!|That is wonderful! What made you happy?
I am bored.|Shall I tell you a story?
Do you like music?|I cannot hear music, but I like stories about it.
Are you there?|Yes, I am here.
Test|I am here and ready.
Say hello|Hello!
Yes|All right! What shall we do next?
No|All right. Tell me if you need anything.
OK|Good! What would you like to do next?""".splitlines()
]
WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
COUNT = "zero one two three four five six seven eight nine ten eleven twelve".split()


def question(r: R) -> tuple[str, str, str]:
    """A question, its answer and a thought."""
    kind = r.randrange(10)
    if kind == 0:
        ask, reply = r.choice(FACTS)
        return ask, reply, "I know this one."
    if kind == 1:
        ask, reply = r.choice(TALK)
        return ask, reply, "The user is talking to me. I will answer kindly."
    if kind == 2:
        word, other = r.choice(list(OPPOSITES.items()))
        ask = r.choice(
            [
                "What is the opposite of {}?",
                "Say the opposite of {}.",
                "opposite of {}",
                "Which word means the opposite of {}?",
            ]
        )
        return ask.format(word), f"The opposite of {word} is {other}.", f"The word is {word}. Its opposite is {other}."
    if kind == 3:
        animal, sound = r.choice(list(SOUNDS.items()))
        ask = r.choice(["What does a {} say?", "What sound does a {} make?", "How does a {} sound?"])
        return ask.format(animal), f"A {animal} says {sound}.", f"A {animal} says {sound}."
    if kind == 4:
        names, what = r.choice([(WEEK, "day"), (MONTHS, "month")])
        i = r.randrange(len(names))
        after = names[(i + 1) % len(names)]
        return (
            f"Which {what} comes after {names[i]}?",
            f"{after} comes after {names[i]}.",
            f"After {names[i]} comes {after}.",
        )
    if kind == 5:
        name, likes = r.choice(NAMES), f"{r.choice(ADJECTIVES)} {r.choice(NOUNS)}"
        return (
            f"{name} has {a(likes)}. What does {name} have?",
            f"{name} has {a(likes)}.",
            f"It says that {name} has {a(likes)}.",
        )
    if kind == 6:
        first, second = r.sample(NAMES, 2)
        where, there = r.sample(NOUNS, 2)
        return (
            f"{first} is at the {where}. {second} is at the {there}. Where is {second}?",
            f"{second} is at the {there}.",
            f"{second} is at the {there}, and {first} is somewhere else.",
        )
    if kind == 7:
        words = " ".join(r.choices(WORDS, k=r.randint(1, 5)))
        ask = r.choice(["Repeat after me: {}", "Say: {}", "Please repeat: {}", "Echo this: {}"])
        return ask.format(words), words, "I repeat the words."
    if kind == 8:
        n = r.randint(3, 12)
        return (f"Count to {n}.", ", ".join(map(str, range(1, n + 1))) + ".", f"I count from 1 to {n}.")
    things = r.sample(NOUNS, r.randint(2, 5))
    return (
        r.choice(["How many things are here: {}?", "Count these: {}."]).format(", ".join(things)),
        f"There are {COUNT[len(things)]} things.",
        f"I count them: {', '.join(f'{t} {i}' for i, t in enumerate(things, 1))}.",
    )


def questions(r: R) -> Talk:
    messages = []
    for _ in range(r.choice([1, 1, 2, 3, 4])):
        ask, reply, thought = question(r)
        messages += [user(ask), answer(reply, thought)]
    return Talk(opened(r, messages), [], r.random() < 0.5)


def echo(r: R) -> str:
    """Something to be repeated to the letter."""
    kind = r.randrange(5)
    if kind == 0:
        return " ".join(r.choices(WORDS, k=r.randint(2, 24)))
    if kind == 1:
        return ", ".join(r.choices([*NOUNS, *NAMES, *ADJECTIVES], k=r.randint(2, 12)))
    if kind == 2:
        return sentence(r)
    if kind == 3:
        return " ".join(file_path(r) for _ in range(r.randint(1, 5)))
    return " ".join(str(r.randint(0, 9999)) for _ in range(r.randint(1, 8)))


def copying(r: R) -> Talk:
    """Words to be repeated, which teach to look back. What tools are called with is copied, too."""
    messages = []
    for _ in range(r.randint(2, 6)):
        text = echo(r)
        ask = r.choice(
            [
                "Repeat after me: {}",
                "Say: {}",
                "Please repeat: {}",
                "Echo this: {}",
                "Copy this:\n{}",
                "{}\n\nSay it again.",
            ]
        )
        messages += [user(ask.format(text)), answer(text, r.choice(["I repeat the words.", f"I say: {text}"]))]
    return Talk(opened(r, messages, 0.1), [], r.random() < 0.5)


def added(x: int, y: int) -> str:
    """How to add, digit by digit."""
    if x < 10 and y < 10:
        return f"{x} + {y} = {x + y}."
    ones, tens = x % 10 + y % 10, x // 10 * 10 + y // 10 * 10
    return f"{x % 10} + {y % 10} = {ones}. {x // 10 * 10} + {y // 10 * 10} = {tens}. {tens} + {ones} = {x + y}."


def sum_of(r: R) -> tuple[str, str, str]:
    """A sum, its result as a sentence and how to get it."""
    kind = r.randrange(3)
    if kind == 0:
        x, y = (r.randint(0, 99), r.randint(0, 99)) if r.random() < 0.6 else (r.randint(0, 20), r.randint(0, 20))
        return f"{x} + {y}", f"{x + y}", added(x, y)
    if kind == 1:
        y, z = r.randint(0, 50), r.randint(0, 49)
        return f"{y + z} - {y}", f"{z}", f"{y} + {z} = {y + z}, so {y + z} - {y} = {z}."
    x, y = r.randint(0, 12), r.randint(0, 12)
    return f"{x} * {y}", f"{x * y}", f"{x} times {y} is {x * y}."


def word_problem(r: R) -> tuple[str, str, str]:
    name, thing = r.choice(NAMES), r.choice(NOUNS)
    x, y = r.randint(2, 20), r.randint(1, 20)
    if r.random() < 0.5:
        more = r.choice(["gets {} more", "finds {} more", "buys {} more"]).format(y)
        return (
            f"{name} has {x} {thing}s. Then {name} {more}. How many {thing}s does {name} have now?",
            f"{name} has {x + y} {thing}s.",
            f"{name} starts with {x} and gets {y}. {added(x, y)}",
        )
    x += y
    less = r.choice(["gives away {}", "loses {}", "sells {}"]).format(y)
    return (
        f"{name} has {x} {thing}s. Then {name} {less}. How many {thing}s are left?",
        f"{name} has {x - y} {thing}s left.",
        f"{name} starts with {x} and has {y} less. {x} - {y} = {x - y}.",
    )


def arithmetic(r: R) -> Talk:
    messages = []
    for _ in range(r.randint(1, 4)):
        if r.random() < 0.3:
            ask, reply, thought = word_problem(r)
        else:
            text, value, thought = sum_of(r)
            ask = r.choice(
                ["What is {}?", "{}", "{} = ?", "Calculate {}.", "How much is {}?", "Can you work out {}?"]
            ).format(text)
            reply = r.choice([f"{text} = {value}.", f"{text} = {value}."])
        messages += [user(ask), answer(reply, thought)]
    return Talk(opened(r, messages, 0.2), [], r.random() < 0.6)


def tool(name: str, description: str, **parameters: str) -> dict:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return {
        "name": name,
        "description": description,
        "parameters": {"type": "object", "properties": properties, "required": list(parameters)},
    }


TOOLS = {
    t["name"]: t
    for t in [
        tool("read_file", "Read a file.", path="The file."),
        tool("list_folder", "List the files in a folder.", path="The folder."),
        tool("write_file", "Write text to a file.", path="The file.", content="The text."),
        tool("run_command", "Run a shell command.", command="The command."),
        tool("calculator", "Calculate the value of an expression.", expression="The expression, like 2 * (3 + 4)."),
    ]
}


def stem(r: R) -> str:
    kind = r.randrange(6)
    one, two = r.choice(WORDS), r.choice(WORDS)
    return [
        one,
        f"{one}_{two}",
        f"{one}-{two}",
        f"{one}{r.randint(1, 99)}",
        f"{one}_{r.randint(1, 2030)}",
        one.capitalize(),
    ][kind]


def folder(r: R) -> str:
    parts = r.choices([*FOLDERS, r.choice(WORDS), stem(r)], k=r.choice([1, 1, 2, 3]))
    return r.choice(["", "", "", "./", "/", "/home/", "../"]) + "/".join(parts) + r.choice(["", "", "/"])


def file_path(r: R) -> str:
    name = f"{stem(r)}.{r.choice(EXTENSIONS)}"
    return name if r.random() < 0.45 else folder(r).rstrip("/") + "/" + name


def sentence(r: R) -> str:
    kind = r.randrange(6)
    name, noun, adjective = r.choice(NAMES), r.choice(NOUNS), r.choice(ADJECTIVES)
    return [
        f"{name} has {a(adjective + ' ' + noun)}.",
        f"The {noun} is {adjective}.",
        f"Buy {r.randint(2, 30)} {noun}s.",
        f"Call {name} at {r.randint(1, 12)}:{r.randint(10, 59)}.",
        f"{name} likes to {r.choice(VERBS)} with the {noun}.",
        f"Remember the {adjective} {noun}.",
    ][kind]


def content(r: R) -> str:
    kind = r.randrange(4)
    if kind == 0:
        return "\n".join(sentence(r) for _ in range(r.randint(1, 3)))
    if kind == 1:
        return f"{r.choice(WORDS)} = {r.randint(1, 999)}"
    if kind == 2:
        return f'print("{r.choice(WORDS)} {r.choice(WORDS)}")'
    return sentence(r)


@dataclass
class Step:
    """A request with what comes of it: each round is a list of (tool, arguments, result)."""

    ask: str
    rounds: list[list[tuple[str, dict, str]]]
    reply: str
    thoughts: list[str]


def reads(r: R) -> Step:
    path = file_path(r)
    ask = r.choice(
        [
            "Read {}.",
            "Show me {}.",
            "What is in {}?",
            "What does {} say?",
            "Open {} for me.",
            "Please read the file {}.",
            "Can you show me the contents of {}?",
            "cat {}",
            "Print the file {}",
            "Look at {} and tell me what it says.",
            "I need to see {}.",
            "Read the file {} please",
        ]
    ).format(path)
    thought = r.choice(
        [f"The user wants to see {path}. I will read it.", f"I need to read {path}.", f"I use read_file for {path}."]
    )
    if r.random() < 0.12:
        return Step(
            ask,
            [[("read_file", {"path": path}, f"error: {path}: no such file")]],
            f"There is no file {path}.",
            [thought, "The file does not exist. I will say so."],
        )
    text = content(r)
    reply = r.choice([f"{path} says:\n\n{text}", f"The file {path} contains:\n\n{text}", f"Here is {path}:\n\n{text}"])
    return Step(ask, [[("read_file", {"path": path}, text)]], reply, [thought, "I have the text. I will show it."])


def reads_two(r: R) -> Step:
    one, two = file_path(r), file_path(r)
    texts = sentence(r), sentence(r)
    ask = r.choice(
        ["Read {} and {}.", "Show me {} and {}.", "What is in {} and in {}?", "Open the files {} and {}."]
    ).format(one, two)
    calls = [("read_file", {"path": path}, text) for path, text in zip((one, two), texts)]
    return Step(
        ask,
        [calls],
        f"{one} says:\n\n{texts[0]}\n\n{two} says:\n\n{texts[1]}",
        [f"I need two files, {one} and {two}. I will read both.", "I have both texts."],
    )


def lists(r: R) -> Step:
    path = folder(r)
    ask = r.choice(
        [
            "What is in the folder {}?",
            "List {}.",
            "List the files in {}.",
            "Show me the folder {}.",
            "Which files are in {}?",
            "ls {}",
            "What files do I have in {}?",
            "Please list the folder {}",
            "Look into {} and tell me what is there.",
        ]
    ).format(path)
    thought = r.choice([f"The user wants to know what is in {path}. I will list it.", f"I use list_folder for {path}."])
    if r.random() < 0.1:
        return Step(
            ask, [[("list_folder", {"path": path}, "")]], f"The folder {path} is empty.", [thought, "Nothing is there."]
        )
    names = [f"{stem(r)}.{r.choice(EXTENSIONS)}" if r.random() < 0.8 else stem(r) + "/" for _ in range(r.randint(1, 5))]
    many = "There is one entry" if len(names) == 1 else f"There are {COUNT[len(names)]} entries"
    return Step(
        ask,
        [[("list_folder", {"path": path}, "\n".join(names))]],
        f"{many} in {path}: {listed(names)}.",
        [thought, "I have the list."],
    )


def writes(r: R) -> Step:
    path, text = file_path(r), content(r)
    ask = r.choice(
        [
            "Write this to {p}: {t}",
            "Create a file {p} with this text: {t}",
            "Save the following text in {p}:\n{t}",
            'Write "{t}" to {p}.',
            'Make a file {p} that says "{t}"',
            'Put "{t}" into {p}.',
            "Please write to {p}:\n{t}",
            "Create {p} with the content:\n{t}",
        ]
    ).format(p=path, t=text)
    thought = r.choice([f"I will write the text to {path}.", f"The user wants a file {path}. I use write_file."])
    told = r.choice(["ok", f"wrote {len(text.encode())} bytes", f"wrote {path}"])
    return Step(
        ask,
        [[("write_file", {"path": path, "content": text}, told)]],
        r.choice([f"I wrote the text to {path}.", f"Done. The text is in {path}.", f"I have created {path}."]),
        [thought, "It is written."],
    )


def commands(r: R) -> tuple[str, str, str]:
    """A wish, a command and its output."""
    one, two, word, name = file_path(r), file_path(r), r.choice(WORDS), folder(r).rstrip("/")
    n = r.randint(1, 400)
    return r.choice(
        [
            (f"How many lines does {one} have?", f"wc -l {one}", f"{n} {one}"),
            (f"Count the lines of {one}.", f"wc -l {one}", f"{n} {one}"),
            (f"Search for {word} in {one}.", f"grep -n {word} {one}", f"{n}:the {word} is here"),
            (f"Find the word {word} in {one}", f"grep -n {word} {one}", f"{n}:{word} = {r.randint(1, 99)}"),
            (f"Make a folder called {name}.", f"mkdir -p {name}", ""),
            (f"Create the directory {name}.", f"mkdir -p {name}", ""),
            (f"Delete {one}.", f"rm {one}", ""),
            (f"Remove the file {one}", f"rm {one}", ""),
            (f"Copy {one} to {two}.", f"cp {one} {two}", ""),
            (f"Make a copy of {one} called {two}.", f"cp {one} {two}", ""),
            (f"Move {one} to {two}.", f"mv {one} {two}", ""),
            (f"Rename {one} to {two}.", f"mv {one} {two}", ""),
            (
                "What is the date?",
                "date",
                f"{r.choice(WEEK)[:3]} {r.choice(MONTHS)[:3]} {r.randint(1, 28)} {r.randint(10, 23)}"
                f":{r.randint(10, 59)}",
            ),
            ("Which user am I?", "whoami", r.choice(NAMES).lower()),
            ("Where am I?", "pwd", "/home/" + r.choice(NAMES).lower()),
            ("Show the status of git.", "git status", f"On branch {word}"),
            ("Run the tests.", "cargo test", f"{n} passed"),
            ("Build the project.", "cargo build", "Finished"),
            ("How much disk space is free?", "df -h", f"{n}G free"),
            (f"Run the script {one}.", f"sh {one}", word),
            (f"Run {one} with python.", f"python {one}", f"{word} {n}"),
            (f"Run `echo {word}`.", f"echo {word}", word),
            (f"Execute this command: ls -l {name}", f"ls -l {name}", f"total {n}"),
            (f"Run the command cat {one}", f"cat {one}", sentence(r)),
        ]
    )


def runs(r: R) -> Step:
    ask, command, output = commands(r)
    thought = r.choice([f"I can do this with a command: {command}", f"I will run {command}."])
    shown = f"The output is:\n\n{output}" if output else "Done."
    return Step(ask, [[("run_command", {"command": command}, output)]], shown, [thought, "The command has run."])


def calculates(r: R) -> Step:
    x, y, z = r.randint(2, 9999), r.randint(2, 999), r.randint(2, 99)
    text = r.choice(
        [
            f"{x} * {y}",
            f"{x} + {y}",
            f"{x} - {y}",
            f"{x} * {z} + {y}",
            f"({x} + {y}) * {z}",
            f"{y} * {z}",
            f"{x * z} / {z}",
        ]
    )
    value = eval(text.replace("/", "//"))
    ask = r.choice(
        [
            "What is {}?",
            "Calculate {}.",
            "Use the calculator for {}.",
            "How much is {}?",
            "Compute {}",
            "{} = ?",
            "Please work out {}.",
            "Can you calculate {} for me?",
        ]
    ).format(text)
    thought = r.choice([f"I will calculate {text}.", f"This is a calculation: {text}. I use the calculator."])
    return Step(
        ask,
        [[("calculator", {"expression": text}, str(value))]],
        f"{text} = {value}.",
        [thought, f"The result is {value}."],
    )


def copies(r: R) -> Step:
    one, two, text = file_path(r), file_path(r), sentence(r)
    ask = r.choice(["Read {} and write the same text to {}.", "Take the text of {} and put it into {}."]).format(
        one, two
    )
    return Step(
        ask,
        [[("read_file", {"path": one}, text)], [("write_file", {"path": two, "content": text}, "ok")]],
        f"I read {one} and wrote its text to {two}.",
        [f"First I read {one}.", f"Now I write it to {two}.", "Both are done."],
    )


def finds(r: R) -> Step:
    where, name, text = folder(r).rstrip("/"), f"{stem(r)}.{r.choice(EXTENSIONS)}", sentence(r)
    ask = r.choice(["There is one file in {}. What does it say?", "Look into {} and read the file there."]).format(
        where
    )
    path = f"{where}/{name}"
    return Step(
        ask,
        [[("list_folder", {"path": where}, name)], [("read_file", {"path": path}, text)]],
        f"{path} says:\n\n{text}",
        [f"First I list {where}.", f"The file is {name}. I read {path}.", "I have the text."],
    )


def keeps(r: R) -> Step:
    x, y, path = r.randint(2, 999), r.randint(2, 99), file_path(r)
    text, value = f"{x} * {y}", str(x * y)
    return Step(
        f"Calculate {text} and write the result to {path}.",
        [[("calculator", {"expression": text}, value)], [("write_file", {"path": path, "content": value}, "ok")]],
        f"{text} = {value}. I wrote it to {path}.",
        ["First I calculate.", f"The result is {value}. I write it to {path}.", "Done."],
    )


def talks(r: R) -> Step:
    ask, reply, thought = question(r)
    return Step(ask, [], reply, [thought + " I need no tool."])


STEPS = [
    (reads, 5),
    (lists, 4),
    (writes, 4),
    (runs, 5),
    (calculates, 4),
    (reads_two, 1),
    (copies, 1),
    (finds, 1),
    (keeps, 1),
    (talks, 2),
]


def tools(r: R, n_step: int | None = None) -> Talk:
    """A conversation of a few requests, with all tools or those that it takes and some others, in any order."""
    makers, weights = zip(*STEPS)
    steps = [make(r) for make in r.choices(makers, weights, k=n_step or r.randint(1, 6))]
    used = {name for step in steps for calls in step.rounds for name, _, _ in calls}
    often = r.choice([0.2, 0.2, 1.0])
    shown = [name for name in TOOLS if name in used or r.random() < often] or list(TOOLS)
    if r.random() < 0.5:
        r.shuffle(shown)
    messages = []
    for step in steps:
        messages.append(user(step.ask))
        for calls, thought in zip(step.rounds, step.thoughts):
            messages.append(answer("", thought, [(name, arguments) for name, arguments, _ in calls]))
            messages += [result(text) for _, _, text in calls]
        messages.append(answer(step.reply, step.thoughts[-1]))
    return Talk(opened(r, messages, 0.6), [TOOLS[name] for name in shown], r.random() < 0.5)
