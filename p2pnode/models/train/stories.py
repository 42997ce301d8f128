"""Short stories: one hero, one friend, one plot, told with many small choices.

A tiny model keeps a story straight only if the story itself is strict. So the hero has one name and one pronoun
from beginning to end, heroes and friends draw from separate lists of names, a friend is named only while it is fresh,
and each plot has one order of events.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["FRIENDS", "HEROES", "KINDS", "Cast", "article", "make_cast", "tell"]

# name -> pronouns (subject, object, possessive)
_SHE = ("she", "her", "her")
_HE = ("he", "him", "his")
HEROES: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(("Ella", "Mia", "Lucy", "Nora", "Ruby", "Lily", "Anna", "Clara", "Daisy", "Molly"), _SHE),
    **dict.fromkeys(("Max", "Leo", "Sam", "Finn", "Oscar", "Toby", "Jack", "Milo", "Peter", "Hugo"), _HE),
}
FRIENDS = ("Pip", "Bella", "Otto", "Greta", "Bruno", "Wilma", "Felix", "Tilda")
KINDS = (
    "fox", "rabbit", "bear", "mouse", "cat", "dog", "duck", "frog", "hedgehog", "squirrel", "owl", "horse", "pig",
    "goat", "sheep", "elephant", "lion", "penguin", "monkey", "turtle", "wolf", "deer", "robin", "donkey",
)  # fmt: skip
TEMPERS = ("curious", "brave", "kind", "shy", "cheerful", "clever", "quiet", "gentle", "young", "little")
PLACES = ("forest", "garden", "river", "meadow", "hill", "lake", "farm", "village")
THINGS = (
    "red ball", "golden key", "blue hat", "small bell", "old map", "silver coin", "green kite", "warm scarf",
    "wooden boat", "shiny shell",
)  # fmt: skip
FOODS = ("apples", "berries", "honey cakes", "nuts", "warm bread", "carrot soup")
SKILLS = ("swim", "sing", "dance", "whistle", "paint", "climb", "read", "skate")


@dataclass(frozen=True, slots=True)
class Cast:
    """What a story is about; a question may fix any part of it."""

    name: str
    kind: str
    place: str
    thing: str


def article(noun: str) -> str:
    """Return the noun with the right indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def make_cast(rng: random.Random) -> Cast:
    """Return a random cast."""
    return Cast(rng.choice(tuple(HEROES)), rng.choice(KINDS), rng.choice(PLACES), rng.choice(THINGS))


_OPENINGS = (
    "Once upon a time, {a_temper_kind} named {name} lived near the {place}.",
    "Long ago, {a_temper_kind} named {name} lived near the {place}.",
    "There once was {a_temper_kind} named {name} who lived near the {place}.",
    "{name} was {a_temper_kind} who lived near the {place}.",
)

# A plot is a list of moments; each moment offers the same event in different words.
_PLOTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("One morning, {name} lost {his} {thing}.", "One day, {name} could not find {his} {thing}."),
        (
            "{He} looked under the bed and behind the door, but it was not there.",
            "{He} looked behind every tree, but the {thing} was gone.",
        ),
        ("{name} sat down and felt very sad.", "{name} was so sad that {he} began to cry."),
        ("Then {friend} the {friend_kind} came along and asked what was wrong.",),
        (
            '"I will help you," said {friend}, and they looked together.',
            '"Do not worry," said {friend}. "We will look together."',
        ),
        (
            "At last they found the {thing} under a pile of leaves.",
            "In the end they found the {thing} next to the old bridge.",
        ),
        ("{name} thanked {his} friend and smiled.", "{name} laughed and gave {his} friend a big hug."),
        (
            "From that day on, they were the best of friends.",
            "That night {name} slept well, with the {thing} beside {him}.",
        ),
    ),
    (
        (
            "One day, {name} found {a_thing} near the {place}.",
            "One morning, {name} saw {a_thing} lying in the grass.",
        ),
        ("{He} wondered who had lost it.", '"Who does this belong to?" {he} asked.'),
        ("{He} asked the wind, but the wind only laughed.", "{He} asked everyone, but nobody knew."),
        ("Then {he} met {a_friend_kind} named {friend}, who was looking for something.",),
        (
            '"That is my {thing}!" said {friend}. "I have looked for it all day."',
            '"You have found my {thing}!" said {friend} happily.',
        ),
        ("{name} gave it back at once.", "{name} was glad to give it back."),
        ("To say thank you, {his} new friend shared some {food} with {him}.",),
        (
            "They sat in the sun and talked until the evening.",
            "They ate together and became good friends.",
        ),
    ),
    (
        (
            "More than anything, {name} wanted to learn to {skill}.",
            "{name} had one big dream: {he} wanted to {skill}.",
        ),
        ("{He} tried on Monday, but it did not work.", "The first time {he} tried, everyone laughed."),
        ("{He} tried again and again, and still it was too hard.", "{He} tried again, but it was not easy."),
        (
            'One day, a wise {friend_kind} named {friend} said, "Do not give up."',
            'Then {friend} the {friend_kind} said, "Let me show you how."',
        ),
        ("So {name} practised a little every day.", "Every morning they practised together."),
        (
            "When spring came, {name} could {skill} better than anyone else.",
            "After a few weeks, {name} could {skill} very well.",
        ),
        (
            "{He} was proud and very happy.",
            "Everyone clapped, and {name} smiled from ear to ear.",
        ),
        ("And {his} friend was the proudest of all.", "{He} never forgot to thank {his} friend."),
    ),
    (
        (
            "One night there was a big storm, and the rain fell hard.",
            "One evening, dark clouds came and it began to rain.",
        ),
        ("{name} was warm and dry in {his} little house.", "{name} sat by the fire in {his} small house."),
        ("Suddenly, {he} heard a knock at the door.", "Then {he} heard somebody calling for help."),
        (
            "It was {a_friend_kind} named {friend}, who was cold and wet.",
            "Outside stood {friend} the {friend_kind}, wet from head to toe.",
        ),
        ('"Come in," said {name}. "There is room for two."', '"Come in and get warm," said {name}.'),
        ("{name} gave {his} guest a blanket and some {food}.",),
        (
            "They told each other stories until the storm was over.",
            "They listened to the rain and told each other stories.",
        ),
        (
            "In the morning the sun was shining, and they had become friends.",
            "When the sun came up, {name} had a new friend.",
        ),
    ),
    (
        (
            "One day, {name} decided to see what was behind the mountain.",
            "One morning, {name} packed a small bag and went on a journey.",
        ),
        ("{He} walked over the hill and across the old bridge.", "{He} walked for a long time along the river."),
        (
            "On the way {he} met {a_friend_kind} named {friend}.",
            "Soon {he} met {friend} the {friend_kind}, who was going the same way.",
        ),
        ('"May I come with you?" asked {friend}.', '"Where are you going?" asked {friend}.'),
        ('"Of course," said {name}. "Two are better than one."', '"Come with me and see," said {name}.'),
        (
            "At the end of the road they found {a_thing}.",
            "Behind the last hill they saw a big blue lake.",
        ),
        (
            "They stayed until the stars came out.",
            "They played there all afternoon.",
        ),
        (
            "When {name} came home, {he} had a story to tell and a new friend.",
            "Then {name} went home, tired and happy.",
        ),
    ),
    (
        (
            "One summer, {name} planted a tiny seed near the {place}.",
            "In spring, {name} planted a small seed in the soil.",
        ),
        ("{He} gave it water every day.", "Every morning {he} gave it some water."),
        ("But for a long time nothing happened.", "Days went by, and nothing could be seen."),
        (
            '"It will never grow," said {friend} the {friend_kind}.',
            '"You are wasting your time," said {friend} the {friend_kind}.',
        ),
        ("{name} only smiled and waited.", "But {name} did not give up."),
        (
            "Then one morning a little green leaf came out of the ground.",
            "At last a small green plant looked out of the soil.",
        ),
        (
            "It grew and grew until it was a tall sunflower.",
            "It grew into the most beautiful flower near the {place}.",
        ),
        (
            '"I was wrong," said {his} friend, and they both laughed.',
            'Even {his} friend had to say, "It was good that you waited."',
        ),
    ),
    (
        (
            "It was the birthday of {name}, but nobody had said a word.",
            "{name} woke up early, because it was {his} birthday.",
        ),
        ("{He} waited all morning, but nobody came.", "{He} went outside, but nobody was there."),
        ('"They have forgotten me," thought {name}.', "{name} felt a little lonely."),
        (
            "Then {friend} the {friend_kind} came and asked {him} to come to the {place}.",
            "In the afternoon, {friend} the {friend_kind} asked {him} to take a walk.",
        ),
        (
            "And there were all {his} friends with {food} and music!",
            "Behind the trees all {his} friends were waiting with {food}!",
        ),
        ("One of them gave {him} {a_thing}.", "The best present was {a_thing}."),
        ("They danced and sang until it was dark.", "They played games until the moon came up."),
        ("It was the best birthday of all.", "{name} had never been so happy."),
    ),
    (
        (
            "One day, {friend} the {friend_kind} asked {name} to run a race around the {place}.",
            "One day there was a big race around the {place}.",
        ),
        ("{name} ran as fast as {he} could.", "At the start, {name} was the fastest of all."),
        (
            "Near the end, {he} saw that {friend} had fallen down.",
            "But then {he} heard {friend} the {friend_kind} cry for help.",
        ),
        ("{name} could have won the race.", "{name} was almost at the end."),
        ("But {he} turned around and went back to help.", "Still, {he} stopped and ran back."),
        (
            "Together they walked slowly to the finish.",
            "{He} helped {his} friend up, and they went on side by side.",
        ),
        (
            "They came in last, but everyone clapped.",
            "They did not win, but everyone cheered for them.",
        ),
        (
            '"You are a true friend," they all said.',
            "{name} had lost the race and won a friend.",
        ),
    ),
)

_MORALS = (
    "So remember: a good friend is worth more than gold.",
    "And they lived happily ever after.",
    "And that is the end of the story.",
    "",
    "",
)


def tell(rng: random.Random, cast: Cast) -> str:
    """Return a story of seven to ten sentences about this cast."""
    he, him, his = HEROES[cast.name]
    temper = rng.choice(TEMPERS)
    friend_kind = rng.choice([kind for kind in KINDS if kind != cast.kind])
    words = {
        "name": cast.name,
        "kind": cast.kind,
        "place": cast.place,
        "thing": cast.thing,
        "a_thing": article(cast.thing),
        "a_temper_kind": article(f"{temper} {cast.kind}"),
        "friend": rng.choice(FRIENDS),
        "friend_kind": friend_kind,
        "a_friend_kind": article(friend_kind),
        "food": rng.choice(FOODS),
        "skill": rng.choice(SKILLS),
        "he": he,
        "He": he.capitalize(),
        "him": him,
        "his": his,
    }
    moments = (_OPENINGS, *rng.choice(_PLOTS), _MORALS)
    return " ".join(sentence.format(**words) for sentence in map(rng.choice, moments) if sentence)
