"""Segments of conversation that are more than a fact looked up: stories, lists, counting, repeating, names."""

from __future__ import annotations

import random

from p2pnode.models.train.facts import ANIMALS, COLOURS_OF, Animal
from p2pnode.models.train.families import capital
from p2pnode.models.train.household import EXPLANATIONS, INSTRUCTIONS, JOBS, LISTS, NUMBER_WORDS, TOOLS
from p2pnode.models.train.stories import HEROES, PLACES, article, make_cast, tell
from p2pnode.models.train.talk import (
    FEELINGS,
    JOKES,
    PERSON_NAMES,
    SMALL_TALK,
    UNKNOWN_ANSWERS,
    UNKNOWN_QUESTIONS,
)

__all__ = [
    "ask_for_instructions", "count", "describe_animal", "give_name", "name_members", "say", "say_feeling",
    "small_talk", "story", "tell_joke", "unknown",
]  # fmt: skip

Segment = list[tuple[str, str]]

_MORE = ("Tell me another one.", "Another one, please.", "One more, please.", "Tell me one more.", "Again!")
_STORY_ASKS = (
    "Tell me a story about {kind}.", "Tell me a short story about {kind}.", "Write a story about {kind}.",
    "Can you tell me a story about {kind}?", "I would like to hear a story about {kind}.",
    "Please tell me a story about {kind}.", "Write a short story about {kind}.", "Make up a story about {kind}.",
    "Tell me a bedtime story about {kind}.", "Could you tell a story about {kind}?",
    "Do you know a story about {kind}?", "A story about {kind}, please.",
)  # fmt: skip
_ANY_STORY_ASKS = (
    "Tell me a story.", "Tell me a short story.", "Write a story.", "Can you tell me a story?", "A story, please.",
    "I want to hear a story.", "Do you know a story?", "Please tell me a story.", "Tell me a bedtime story.",
    "Write me a short story.", "Make up a story.", "Tell me a long story.",
)  # fmt: skip
_STRANGE_WORDS = (
    "Peru", "France", "Germany", "London", "Paris", "Rome", "China", "India", "America", "Berlin", "Tokyo", "Brazil",
    "quantum physics", "chemistry", "biology", "algebra", "football", "tennis", "bitcoin", "blockchain", "Napoleon",
    "Shakespeare", "Einstein", "Python", "Linux", "JavaScript", "economics", "philosophy", "democracy", "gravity",
    "electricity", "radio", "television", "the internet", "the stock market", "the universe", "Mars", "Jupiter",
    "volcano", "dinosaur", "platypus", "octopus", "jaguar", "hamster", "hippo", "koala", "panda", "iguana", "oyster",
    "Mozart", "Beethoven", "jazz", "opera", "ballet", "chess", "poker", "golf", "baseball", "the law", "tax",
    "medicine", "surgery", "vitamin", "protein", "cancer", "virus", "neuron", "atom", "molecule", "photon",
    "engine", "turbine", "rocket", "satellite", "telescope", "microscope", "battery", "laser", "a GPU", "a compiler",
)  # fmt: skip
_SYLLABLES = (
    "ba", "bel", "bo", "cra", "da", "dor", "el", "fa", "fen", "gim", "go", "ha", "jo", "kel", "ki", "lu", "ma", "mor",
    "na", "nix", "or", "pla", "qui", "ra", "ri", "sha", "sol", "ta", "tri", "ul", "va", "vex", "wa", "xi", "yo", "zan",
)  # fmt: skip
_ADJECTIVES = ("red", "old", "small", "happy", "green", "big", "quiet", "brave", "yellow", "clever", "warm", "new")
_VERBS = ("runs", "sleeps", "sings", "walks", "dances", "sits", "stands", "plays", "waits", "jumps", "swims", "looks")
_WHERE = ("near", "behind", "under", "in front of", "next to", "above", "around")


_WORDS_TO_SAY = tuple(
    dict.fromkeys(
        [animal.name for animal in ANIMALS]
        + [word for row in (*EXPLANATIONS, *TOOLS, *JOBS) for cell in row for word in cell.split()]
        + [word for members in LISTS.values() for word in members]
        + [*_ADJECTIVES, *_VERBS, *PERSON_NAMES]
    )
)


def small_talk(rng: random.Random) -> Segment:
    """A greeting, a thank-you, a question about the model itself."""
    asks, answers = rng.choice(SMALL_TALK)
    return [(rng.choice(asks), rng.choice(answers))]


def say_feeling(rng: random.Random) -> Segment:
    """The user says how they feel."""
    feeling, answer = rng.choice(FEELINGS)
    ask = rng.choice(("I am {}.", "I feel {}.", "I am so {}.", "I am very {} today.", "I am {} today.", "I'm {}."))
    return [(ask.format(feeling), answer)]


def tell_joke(rng: random.Random) -> Segment:
    """One joke or two."""
    jokes = rng.sample(JOKES, rng.randint(1, 2))
    asks = ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Can you tell me a joke?", "A joke, please.")
    return [(rng.choice(asks if at == 0 else _MORE), joke) for at, joke in enumerate(jokes)]


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def name_members(rng: random.Random) -> Segment:
    """A list of some members of a class, and sometimes more of them.

    Members are read off in a circle from a random start: a tiny model that picks freely soon repeats itself.
    """
    plural = rng.choice(tuple(LISTS))
    members = LISTS[plural]
    wanted = rng.randint(2, min(5, len(members)))
    word = NUMBER_WORDS[wanted]
    start = rng.randrange(len(members))
    found = [members[(start + step) % len(members)] for step in range(wanted)]
    asks = (
        f"Name {word} {plural}.", f"Name {wanted} {plural}.", f"Give me {word} {plural}.", f"Tell me {word} {plural}.",
        f"Can you name {word} {plural}?", f"List {word} {plural}.", f"Please name {word} {plural}.",
        f"Which {word} {plural} do you know?", f"Can you give me {word} {plural}?", f"Write down {word} {plural}.",
    )  # fmt: skip
    segment = [(rng.choice(asks), f"Here are {word} {plural}: {_join(found)}.")]
    if 2 * wanted <= len(members) and rng.random() < 0.3:
        more = [members[(start + wanted + step) % len(members)] for step in range(wanted)]
        ask = rng.choice((f"Name {word} more.", "And some more?", "Some more, please.", f"Give me {word} more."))
        segment.append((ask, f"Here are {word} more: {_join(more)}."))
    return segment


def count(rng: random.Random) -> Segment:
    """Counting up, from one number to another, or down."""
    chance = rng.random()
    if chance < 0.5:
        last = rng.randint(2, 20)
        ask = rng.choice(
            ("Count to {}.", "Count up to {}.", "Can you count to {}?", "Please count to {}.", "Count from 1 to {}.")
        )
        return [(ask.format(last), ", ".join(map(str, range(1, last + 1))) + ".")]
    first = rng.randint(0, 15)
    last = rng.randint(first + 1, 20)
    if chance < 0.8:
        ask = rng.choice(("Count from {} to {}.", "Please count from {} to {}.", "Can you count from {} to {}?"))
        return [(ask.format(first, last), ", ".join(map(str, range(first, last + 1))) + ".")]
    top = rng.randint(3, 15)
    ask = rng.choice(("Count down from {}.", "Count backwards from {}.", "Please count down from {}."))
    return [(ask.format(top), ", ".join(map(str, range(top, 0, -1))) + ".")]


def _strange(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(_STRANGE_WORDS)
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 3)))


def _words_to_say(rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.25:
        word = rng.choice((rng.choice(ANIMALS).name, rng.choice(COLOURS_OF)[1], rng.choice(PERSON_NAMES), "hello"))
        return word if rng.random() < 0.7 else _strange(rng)
    if chance < 0.6:
        return " ".join(
            rng.choice(_WORDS_TO_SAY) if rng.random() < 0.9 else _strange(rng) for _ in range(rng.randint(2, 6))
        )
    first, second = rng.sample(ANIMALS, 2)
    where = rng.choice(_WHERE)
    goal = rng.choice((f"the {second.name}", f"the {rng.choice(PLACES)}", rng.choice(PERSON_NAMES)))
    return f"the {rng.choice(_ADJECTIVES)} {first.name} {rng.choice(_VERBS)} {where} {goal}"


def say(rng: random.Random) -> Segment:
    """The user asks for a text to be said again; the model says it as a sentence."""
    words = _words_to_say(rng)
    asks = ("Say {}.", "Repeat after me: {}.", "Say: {}.", "Please say {}.", "Repeat: {}.", "Can you say {}?",
            'Say "{}".', "Say the words {}.", "Please repeat after me: {}.")  # fmt: skip
    return [(rng.choice(asks).format(words), words[:1].upper() + words[1:] + ".")]


def story(rng: random.Random) -> Segment:
    """A story, then sometimes a question about it, a thank-you or another story."""
    cast = make_cast(rng)
    chance = rng.random()
    ask = rng.choice(_ANY_STORY_ASKS if chance < 0.3 else _STORY_ASKS)
    subject = article(cast.kind) if chance < 0.75 else f"{article(cast.kind)} named {cast.name}"
    segment = [(ask.format(kind=subject), tell(rng, cast))]
    chance = rng.random()
    if chance < 0.12:
        kind = cast.kind
        ask = rng.choice(
            (f"What was the name of the {kind}?", f"What was the {kind} called?", "Who was the story about?")
        )
        segment.append((ask, f"The story was about {article(cast.kind)} named {cast.name}."))
    elif chance < 0.24:
        ask = rng.choice((f"Where did {cast.name} live?", f"Where did the {cast.kind} live?"))
        segment.append((ask, f"{cast.name} lived near the {cast.place}."))
    elif chance < 0.36:
        segment.append((rng.choice(_MORE), tell(rng, make_cast(rng))))
    elif chance < 0.48:
        thanks = rng.choice(("Thank you.", "Thank you!", "That was nice.", "I like it.", "What a nice story!"))
        segment.append((thanks, rng.choice(("You are welcome!", "I am glad that you like it."))))
    return segment


def _description(animal: Animal) -> str:
    """All that the table knows about an animal, in sentences."""
    name = article(animal.name)
    parts = [f"{name} is a {animal.size} animal.", f"It lives {animal.home}.", f"It eats {animal.food}."]
    if animal.colour != "-":
        parts.append(f"It is {animal.colour}.")
    if animal.legs != "-":
        parts.append(f"It has {animal.legs} legs.")
    parts.append(f"{capital(name)} {animal.trait}.")
    if animal.baby not in ("-", "owlet"):
        parts.append(f"A baby {animal.name} is called a {animal.baby}.")
    return " ".join(parts)


def describe_animal(rng: random.Random) -> Segment:
    """Everything about one animal."""
    animal = rng.choice(ANIMALS)
    asks = ("Describe {a}.", "What is {a}?", "Tell me all about {a}.", "Tell me more about {a}.",
            "Explain what {a} is.", "Tell me everything about {a}.", "Can you describe {a}?",
            "What kind of animal is {a}?",
            "Tell me about {a}.", "Tell me about the {n}.", "Describe the {n}.")  # fmt: skip
    return [(rng.choice(asks).format(a=article(animal.name), n=animal.name), _description(animal))]


def ask_for_instructions(rng: random.Random) -> Segment:
    """How to do something, step by step."""
    task, text = rng.choice(INSTRUCTIONS)
    steps = text.split("; ")
    links = ("First", *("Then", "Next", "After that", "Then")[: len(steps) - 2], "Finally")
    asks = ("How do I {}?", "How can I {}?", "Tell me how to {}.", "Explain how to {}.", "How do you {}?",
            "What is the best way to {}?", "I want to {}. How do I do it?", "Can you tell me how to {}?")  # fmt: skip
    answer = " ".join(f"{link}, {step}." for link, step in zip(links, steps, strict=True))
    return [(rng.choice(asks).format(task), answer)]


def give_name(rng: random.Random) -> Segment:
    """The user says their name and asks for it again, at once or after something else."""
    name = rng.choice(PERSON_NAMES + tuple(HEROES))
    hello = rng.choice(("My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}.", "You can call me {}."))
    segment = [(hello.format(name), f"Nice to meet you, {name}!")]
    if rng.random() < 0.5:
        segment += small_talk(rng) if rng.random() < 0.5 else name_members(rng)
    ask = rng.choice(("What is my name?", "Do you know my name?", "Who am I?", "Tell me my name."))
    return [*segment, (ask, f"Your name is {name}.")]


def unknown(rng: random.Random) -> Segment:
    """A question that the model was never taught to answer, and says so."""
    return [(rng.choice(UNKNOWN_QUESTIONS).format(x=_strange(rng)), rng.choice(UNKNOWN_ANSWERS))]
