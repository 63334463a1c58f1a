"""Polish words for the synthetic corpus: plain data, principal parts only; corpus/inflection.py derives the rest.

Principal parts, by class (cases: N nominative, G genitive, D dative, L locative):
    m1 (men), m2 (animals), m3 (things): N G D L, N plural, G plural;  ma (men in -a): N G D=L, N plural, G plural
    f: N G D=L, N plural, G plural;  fc (feminine in a consonant): N G=D=L, N plural, G plural
    n: N G D L, N plural, G plural;  adjective: masculine N, virile plural N
 verb: infinitive, 3rd singular, 3rd plural
Words whose remaining forms are irregular (książę, gość, liść, muzeum and the like) are left out on purpose.
"""

from __future__ import annotations

MEN = """
uczeń ucznia uczniowi uczniu uczniowie uczniów; student studenta studentowi studencie studenci studentów
sąsiad sąsiada sąsiadowi sąsiedzie sąsiedzi sąsiadów; autor autora autorowi autorze autorzy autorów
nauczyciel nauczyciela nauczycielowi nauczycielu nauczyciele nauczycieli
mieszkaniec mieszkańca mieszkańcowi mieszkańcu mieszkańcy mieszkańców
badacz badacza badaczowi badaczu badacze badaczy; dziadek dziadka dziadkowi dziadku dziadkowie dziadków
"""
WOMEN = """
studentka studentki studentce studentki studentek; uczennica uczennicy uczennicy uczennice uczennic
nauczycielka nauczycielki nauczycielce nauczycielki nauczycielek; sąsiadka sąsiadki sąsiadce sąsiadki sąsiadek
babcia babci babci babcie babć; autorka autorki autorce autorki autorek
badaczka badaczki badaczce badaczki badaczek; kobieta kobiety kobiecie kobiety kobiet
"""
FIRST_NAMES_M1 = """
Piotr Piotra Piotrowi Piotrze; Adam Adama Adamowi Adamie; Tomasz Tomasza Tomaszowi Tomaszu; Jan Jana Janowi Janie
Marek Marka Markowi Marku; Jakub Jakuba Jakubowi Jakubie; Michał Michała Michałowi Michale
Paweł Pawła Pawłowi Pawle; Krzysztof Krzysztofa Krzysztofowi Krzysztofie
Stanisław Stanisława Stanisławowi Stanisławie
"""
FIRST_NAMES_F = """
Anna Anny Annie; Maria Marii Marii; Katarzyna Katarzyny Katarzynie; Zofia Zofii Zofii; Ewa Ewy Ewie
Agnieszka Agnieszki Agnieszce; Hanna Hanny Hannie; Barbara Barbary Barbarze; Joanna Joanny Joannie
"""
SURNAMES = """
Kowalski Wiśniewski Zieliński Dąbrowski Lewandowski Kamiński Szymański Kozłowski Jankowski Wojciechowski Krawczyński
Górski Rutkowski Jabłoński Piotrowski Wróblewski Ostrowski Malinowski Sadowski Żeromski
"""
# Nominative, genitive, locative.
CITIES = """
Kraków Krakowa Krakowie; Warszawa Warszawy Warszawie; Gdańsk Gdańska Gdańsku; Poznań Poznania Poznaniu
Lublin Lublina Lublinie; Toruń Torunia Toruniu; Łódź Łodzi Łodzi; Wrocław Wrocławia Wrocławiu
Zakopane Zakopanego Zakopanem; Szczecin Szczecina Szczecinie; Katowice Katowic Katowicach; Gniezno Gniezna Gnieźnie
Olsztyn Olsztyna Olsztynie; Białystok Białegostoku Białymstoku; Kielce Kielc Kielcach; Opole Opola Opolu
Rzeszów Rzeszowa Rzeszowie; Sopot Sopotu Sopocie; Zamość Zamościa Zamościu; Gdynia Gdyni Gdyni
"""
MONTHS_GENITIVE = """
stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia
"""

PEOPLE_ADJECTIVES = """
młody młodzi; stary starzy; dobry dobrzy; mądry mądrzy; spokojny spokojni; cierpliwy cierpliwi; zdolny zdolni
doświadczony doświadczeni; pracowity pracowici; miły mili; uważny uważni; odważny odważni; uczciwy uczciwi
sławny sławni; zmęczony zmęczeni; szczęśliwy szczęśliwi; znany znani; polski polscy; wysoki wysocy; skromny skromni
ambitny ambitni; ciekawy ciekawi; życzliwy życzliwi; surowy surowi; wesoły weseli; poważny poważni
"""
THING_ADJECTIVES = """
nowy nowi; stary starzy; dobry dobrzy; mały mali; duży duzi; piękny piękni; ważny ważni; ciekawy ciekawi
prosty prości
trudny trudni; znany znani; ładny ładni; zwykły zwykli; wielki wielcy; drogi drodzy; tani tani; polski polscy
lokalny lokalni; popularny popularni; wyjątkowy wyjątkowi; ostatni ostatni; pierwszy pierwsi; dawny dawni
współczesny współcześni; potrzebny potrzebni; prawdziwy prawdziwi; słynny słynni; niezwykły niezwykli
skuteczny skuteczni
"""

# Imperfective and perfective verbs with an accusative object, which turns into a genitive after negation.
IMPERFECTIVE = """
opisywać opisuje opisują; oceniać ocenia oceniają; pokazywać pokazuje pokazują; wybierać wybiera wybierają
poznawać poznaje poznają; widzieć widzi widzą; lubić lubi lubią; cenić ceni cenią; omawiać omawia omawiają
porównywać porównuje porównują; sprawdzać sprawdza sprawdzają; polecać poleca polecają; znać zna znają
"""
PERFECTIVE = """
opisać opisze opiszą; ocenić oceni ocenią; pokazać pokaże pokażą; wybrać wybierze wybiorą; poznać pozna poznają
zobaczyć zobaczy zobaczą; docenić doceni docenią; omówić omówi omówią; porównać porówna porównają
sprawdzić sprawdzi sprawdzą; zapamiętać zapamięta zapamiętają; zauważyć zauważy zauważą; polecić poleci polecą
znaleźć znajdzie znajdą znalazł znalazła znalazło znaleźli znalazły
"""
# Imperfective verbs with another government: the preposition is kept with the verb, @ stands for się.
WITH_GENITIVE = """
szukać szuka szukają; potrzebować potrzebuje potrzebują; unikać unika unikają; używać używa używają
"""
WITH_INSTRUMENTAL = """
zajmować@ zajmuje@ zajmują@; interesować@ interesuje@ interesują@; zachwycać@ zachwyca@ zachwycają@
"""
WITH_LOCATIVE_O = """
rozmawiać rozmawia rozmawiają; myśleć myśli myślą; pisać pisze piszą; opowiadać opowiada opowiadają
marzyć marzy marzą; pamiętać pamięta pamiętają; dyskutować dyskutuje dyskutują; czytać czyta czytają
"""
WITH_ACCUSATIVE_NA = """czekać czeka czekają; patrzeć patrzy patrzą patrzył patrzyła patrzyło patrzyli patrzyły
liczyć liczy liczą; narzekać narzeka narzekają"""
WITH_DATIVE_PERSON = (
    "pomagać pomaga pomagają; dziękować dziękuje dziękują; ufać ufa ufają; odpowiadać odpowiada odpowiadają"
)
WITH_INSTRUMENTAL_PERSON = """
współpracować współpracuje współpracują; rozmawiać rozmawia rozmawiają; spotykać@ spotyka@ spotykają@
"""
# Units for numbers: nominative, nominative plural (2-4), genitive plural (5 and more).
DISTANCES = "kilometr kilometry kilometrów; metr metry metrów; krok kroki kroków; przystanek przystanki przystanków"
DURATIONS = "rok lata lat; miesiąc miesiące miesięcy; godzina godziny godzin; dzień dni dni; tydzień tygodnie tygodni"

# Per topic: people (m1, ma, f), things (m2, m3, f, fc, n), places with their preposition, adjectives and verbs.
TOPICS: dict[str, dict[str, str]] = {
    "cooking": {
        "m1": """kucharz kucharza kucharzowi kucharzu kucharze kucharzy
            kelner kelnera kelnerowi kelnerze kelnerzy kelnerów
            cukiernik cukiernika cukiernikowi cukierniku cukiernicy cukierników
            piekarz piekarza piekarzowi piekarzu piekarze piekarzy
            gospodarz gospodarza gospodarzowi gospodarzu gospodarze gospodarzy""",
        "f1": "kucharka kucharki kucharce kucharki kucharek; kelnerka kelnerki kelnerce kelnerki kelnerek",
        "m3": """chleb chleba chlebowi chlebie chleby chlebów; sos sosu sosowi sosie sosy sosów
            ser sera serowi serze sery serów; makaron makaronu makaronowi makaronie makarony makaronów
            przepis przepisu przepisowi przepisie przepisy przepisów; deser deseru deserowi deserze desery deserów
            garnek garnka garnkowi garnku garnki garnków; obiad obiadu obiadowi obiedzie obiady obiadów
            składnik składnika składnikowi składniku składniki składników; miód miodu miodowi miodzie miody miodów
            sernik sernika sernikowi serniku serniki serników; bigos bigosu bigosowi bigosie bigosy bigosów""",
        "f": """zupa zupy zupie zupy zup; sałatka sałatki sałatce sałatki sałatek
            kapusta kapusty kapuście kapusty kapust
            cebula cebuli cebuli cebule cebul; marchewka marchewki marchewce marchewki marchewek
            śmietana śmietany śmietanie śmietany śmietan; przyprawa przyprawy przyprawie przyprawy przypraw
            kolacja kolacji kolacji kolacje kolacji; potrawa potrawy potrawie potrawy potraw; kawa kawy kawie kawy kaw
            herbata herbaty herbacie herbaty herbat; mąka mąki mące mąki mąk; jagoda jagody jagodzie jagody jagód
            szarlotka szarlotki szarlotce szarlotki szarlotek""",
        "fc": "sól soli sole soli",
        "n": """ciasto ciasta ciastu cieście ciasta ciast; mięso mięsa mięsu mięsie mięsa mięs
            masło masła masłu maśle masła maseł; jabłko jabłka jabłku jabłku jabłka jabłek
            danie dania daniu daniu dania dań; śniadanie śniadania śniadaniu śniadaniu śniadania śniadań
            warzywo warzywa warzywu warzywie warzywa warzyw; jajko jajka jajku jajku jajka jajek""",
        "w": """f kuchnia kuchni kuchni kuchnie kuchni; f restauracja restauracji restauracji restauracje restauracji
            f piekarnia piekarni piekarni piekarnie piekarni; f stołówka stołówki stołówce stołówki stołówek""",
        "na": "m3 targ targu targowi targu targi targów; m3 rynek rynku rynkowi rynku rynki rynków",
        "adjectives": """świeży świeży; słodki słodcy; gorący gorący; kwaśny kwaśni; domowy domowi; zdrowy zdrowi
            smaczny smaczni; tradycyjny tradycyjni; delikatny delikatni; ostry ostrzy""",
        "ipf": """kupować kupuje kupują; podawać podaje podają; przyrządzać przyrządza przyrządzają
            doprawiać doprawia doprawiają; jadać jada jadają; mieszać miesza mieszają""",
        "pf": """kupić kupi kupią; podać poda podadzą; przyrządzić przyrządzi przyrządzą; doprawić doprawi doprawią
            zjeść zje zjedzą zjadł zjadła zjadło zjedli zjadły; wymieszać wymiesza wymieszają""",
    },
    "nature": {
        "m1": """leśnik leśnika leśnikowi leśniku leśnicy leśników; rolnik rolnika rolnikowi rolniku rolnicy rolników
            ogrodnik ogrodnika ogrodnikowi ogrodniku ogrodnicy ogrodników
            biolog biologa biologowi biologu biolodzy biologów
            przyrodnik przyrodnika przyrodnikowi przyrodniku przyrodnicy przyrodników""",
        "f1": "ogrodniczka ogrodniczki ogrodniczce ogrodniczki ogrodniczek",
        "m2": """wilk wilka wilkowi wilku wilki wilków; lis lisa lisowi lisie lisy lisów
            jeleń jelenia jeleniowi jeleniu jelenie jeleni; bocian bociana bocianowi bocianie bociany bocianów
            żubr żubra żubrowi żubrze żubry żubrów; ptak ptaka ptakowi ptaku ptaki ptaków
            niedźwiedź niedźwiedzia niedźwiedziowi niedźwiedziu niedźwiedzie niedźwiedzi
            motyl motyla motylowi motylu motyle motyli; dzik dzika dzikowi dziku dziki dzików""",
        "m3": """dąb dębu dębowi dębie dęby dębów; kwiat kwiatu kwiatowi kwiecie kwiaty kwiatów
            deszcz deszczu deszczowi deszczu deszcze deszczów; wiatr wiatru wiatrowi wietrze wiatry wiatrów
            strumień strumienia strumieniowi strumieniu strumienie strumieni
            brzeg brzegu brzegowi brzegu brzegi brzegów
            krzew krzewu krzewowi krzewie krzewy krzewów; kamień kamienia kamieniowi kamieniu kamienie kamieni""",
        "f": """sowa sowy sowie sowy sów; wiewiórka wiewiórki wiewiórce wiewiórki wiewiórek
            pszczoła pszczoły pszczole pszczoły pszczół; roślina rośliny roślinie rośliny roślin
            rzeka rzeki rzece rzeki rzek; sosna sosny sośnie sosny sosen; brzoza brzozy brzozie brzozy brzóz
            chmura chmury chmurze chmury chmur; burza burzy burzy burze burz; trawa trawy trawie trawy traw
            wyspa wyspy wyspie wyspy wysp; żaba żaby żabie żaby żab""",
        "fc": "jesień jesieni jesienie jesieni",
        "n": """drzewo drzewa drzewu drzewie drzewa drzew; jezioro jeziora jezioru jeziorze jeziora jezior
            zwierzę zwierzęcia zwierzęciu zwierzęciu zwierzęta zwierząt
            gniazdo gniazda gniazdu gnieździe gniazda gniazd
            źródło źródła źródłu źródle źródła źródeł; morze morza morzu morzu morza mórz""",
        "w": """m3 las lasu lasowi lesie lasy lasów; m3 park parku parkowi parku parki parków
            m3 ogród ogrodu ogrodowi ogrodzie ogrody ogrodów; f puszcza puszczy puszczy puszcze puszcz
            m3 rezerwat rezerwatu rezerwatowi rezerwacie rezerwaty rezerwatów; fc wieś wsi wsie wsi""",
        "na": """f łąka łąki łące łąki łąk; n pole pola polu polu pola pól; f polana polany polanie polany polan""",
        "adjectives": """dziki dzicy; zielony zieloni; głęboki głębocy; rzadki rzadcy; leśny leśni
            chroniony chronieni
            zimny zimni; ciepły ciepli; cichy cisi; górski górscy; jasny jaśni; ciemny ciemni""",
        "ipf": """obserwować obserwuje obserwują; chronić chroni chronią; badać bada badają
            fotografować fotografuje fotografują; podziwiać podziwia podziwiają; malować maluje malują""",
        "pf": """zbadać zbada zbadają; ochronić ochroni ochronią; sfotografować sfotografuje sfotografują
            namalować namaluje namalują
            dostrzec dostrzeże dostrzegą dostrzegł dostrzegła dostrzegło dostrzegli dostrzegły""",
    },
    "history": {
        "m1": """król króla królowi królu królowie królów; rycerz rycerza rycerzowi rycerzu rycerze rycerzy
            historyk historyka historykowi historyku historycy historyków; kupiec kupca kupcowi kupcu kupcy kupców
            żołnierz żołnierza żołnierzowi żołnierzu żołnierze żołnierzy
            cesarz cesarza cesarzowi cesarzu cesarze cesarzy
            kronikarz kronikarza kronikarzowi kronikarzu kronikarze kronikarzy
            archeolog archeologa archeologowi archeologu archeolodzy archeologów""",
        "ma": "poeta poety poecie poeci poetów; dowódca dowódcy dowódcy dowódcy dowódców",
        "f1": "kronikarka kronikarki kronikarce kronikarki kronikarek; malarka malarki malarce malarki malarek",
        "m3": """pałac pałacu pałacowi pałacu pałace pałaców; traktat traktatu traktatowi traktacie traktaty traktatów
            pomnik pomnika pomnikowi pomniku pomniki pomników; mur muru murowi murze mury murów
            skarb skarbu skarbowi skarbie skarby skarbów; most mostu mostowi moście mosty mostów
            dokument dokumentu dokumentowi dokumencie dokumenty dokumentów; miecz miecza mieczowi mieczu miecze mieczy
            obraz obrazu obrazowi obrazie obrazy obrazów; list listu listowi liście listy listów
            kościół kościoła kościołowi kościele kościoły kościołów""",
        "f": """wojna wojny wojnie wojny wojen; bitwa bitwy bitwie bitwy bitew; kronika kroniki kronice kroniki kronik
            korona korony koronie korony koron; katedra katedry katedrze katedry katedr
            legenda legendy legendzie legendy legend; moneta monety monecie monety monet
            brama bramy bramie bramy bram
            wieża wieży wieży wieże wież; księga księgi księdze księgi ksiąg
            stolica stolicy stolicy stolice stolic""",
        "fc": "opowieść opowieści opowieści opowieści",
        "n": """powstanie powstania powstaniu powstaniu powstania powstań
            państwo państwa państwu państwie państwa państw
            królestwo królestwa królestwu królestwie królestwa królestw; miasto miasta miastu mieście miasta miast
            wydarzenie wydarzenia wydarzeniu wydarzeniu wydarzenia wydarzeń
            dzieło dzieła dziełu dziele dzieła dzieł""",
        "w": """m3 zamek zamku zamkowi zamku zamki zamków
            m3 klasztor klasztoru klasztorowi klasztorze klasztory klasztorów
            f twierdza twierdzy twierdzy twierdze twierdz""",
        "na": "m3 dwór dworu dworowi dworze dwory dworów; f wystawa wystawy wystawie wystawy wystaw",
        "adjectives": """średniowieczny średniowieczni; królewski królewscy; zapomniany zapomniani; bogaty bogaci
            kamienny kamienni; złoty złoci; narodowy narodowi; wieczny wieczni; pisany pisani; wojenny wojenni""",
        "ipf": """badać bada badają; przechowywać przechowuje przechowują; wspominać wspomina wspominają
            odkrywać odkrywa odkrywają; podziwiać podziwia podziwiają""",
        "pf": """odkryć odkryje odkryją; zniszczyć zniszczy zniszczą; odbudować odbuduje odbudują
            zbadać zbada zbadają; ukryć ukryje ukryją; utracić utraci utracą""",
    },
    "sport": {
        "m1": """trener trenera trenerowi trenerze trenerzy trenerów
            zawodnik zawodnika zawodnikowi zawodniku zawodnicy zawodników
            piłkarz piłkarza piłkarzowi piłkarzu piłkarze piłkarzy; kibic kibica kibicowi kibicu kibice kibiców
            biegacz biegacza biegaczowi biegaczu biegacze biegaczy; kolarz kolarza kolarzowi kolarzu kolarze kolarzy
            pływak pływaka pływakowi pływaku pływacy pływaków""",
        "f1": """zawodniczka zawodniczki zawodniczce zawodniczki zawodniczek
            trenerka trenerki trenerce trenerki trenerek
            siatkarka siatkarki siatkarce siatkarki siatkarek; biegaczka biegaczki biegaczce biegaczki biegaczek""",
        "m3": """mecz meczu meczowi meczu mecze meczów; turniej turnieju turniejowi turnieju turnieje turniejów
            medal medalu medalowi medalu medale medali; puchar pucharu pucharowi pucharze puchary pucharów
            rekord rekordu rekordowi rekordzie rekordy rekordów
            trening treningu treningowi treningu treningi treningów
            wyścig wyścigu wyścigowi wyścigu wyścigi wyścigów; rower roweru rowerowi rowerze rowery rowerów
            wynik wyniku wynikowi wyniku wyniki wyników; sezon sezonu sezonowi sezonie sezony sezonów
            maraton maratonu maratonowi maratonie maratony maratonów; klub klubu klubowi klubie kluby klubów""",
        "f": """drużyna drużyny drużynie drużyny drużyn; piłka piłki piłce piłki piłek
            bramka bramki bramce bramki bramek
            liga ligi lidze ligi lig; nagroda nagrody nagrodzie nagrody nagród
            porażka porażki porażce porażki porażek; trasa trasy trasie trasy tras
            rozgrzewka rozgrzewki rozgrzewce rozgrzewki rozgrzewek; kontuzja kontuzji kontuzji kontuzje kontuzji""",
        "n": """zwycięstwo zwycięstwa zwycięstwu zwycięstwie zwycięstwa zwycięstw
            ćwiczenie ćwiczenia ćwiczeniu ćwiczeniu ćwiczenia ćwiczeń
            spotkanie spotkania spotkaniu spotkaniu spotkania spotkań
            mistrzostwo mistrzostwa mistrzostwu mistrzostwie mistrzostwa mistrzostw
            okrążenie okrążenia okrążeniu okrążeniu okrążenia okrążeń""",
        "w": """f hala hali hali hale hal; f siłownia siłowni siłowni siłownie siłowni
            f szatnia szatni szatni szatnie szatni""",
        "na": """m3 stadion stadionu stadionowi stadionie stadiony stadionów
            n boisko boiska boisku boisku boiska boisk
            m3 basen basenu basenowi basenie baseny basenów; f bieżnia bieżni bieżni bieżnie bieżni""",
        "adjectives": """szybki szybcy; decydujący decydujący; zwycięski zwycięscy; olimpijski olimpijscy; silny silni
            światowy światowi; letni letni; zimowy zimowi; wyrównany wyrównani; finałowy finałowi""",
        "ipf": """komentować komentuje komentują; oglądać ogląda oglądają; planować planuje planują
            analizować analizuje analizują; świętować świętuje świętują; przeżywać przeżywa przeżywają""",
        "pf": """obejrzeć obejrzy obejrzą; zaplanować zaplanuje zaplanują; skomentować skomentuje skomentują
            zakończyć zakończy zakończą; rozpocząć rozpocznie rozpoczną; przeżyć przeżyje przeżyją""",
    },
    "technology": {
        "m1": """inżynier inżyniera inżynierowi inżynierze inżynierowie inżynierów
            informatyk informatyka informatykowi informatyku informatycy informatyków
            naukowiec naukowca naukowcowi naukowcu naukowcy naukowców
            użytkownik użytkownika użytkownikowi użytkowniku użytkownicy użytkowników
            technik technika technikowi techniku technicy techników""",
        "ma": """programista programisty programiście programiści programistów
            wynalazca wynalazcy wynalazcy wynalazcy wynalazców""",
        "f1": "programistka programistki programistce programistki programistek",
        "m3": """komputer komputera komputerowi komputerze komputery komputerów
            telefon telefonu telefonowi telefonie telefony telefonów
            program programu programowi programie programy programów
            algorytm algorytmu algorytmowi algorytmie algorytmy algorytmów
            serwer serwera serwerowi serwerze serwery serwerów
            silnik silnika silnikowi silniku silniki silników; ekran ekranu ekranowi ekranie ekrany ekranów
            procesor procesora procesorowi procesorze procesory procesorów; błąd błędu błędowi błędzie błędy błędów
            system systemu systemowi systemie systemy systemów
            projekt projektu projektowi projekcie projekty projektów
            model modelu modelowi modelu modele modeli; czujnik czujnika czujnikowi czujniku czujniki czujników""",
        "f": """aplikacja aplikacji aplikacji aplikacje aplikacji; bateria baterii baterii baterie baterii
            drukarka drukarki drukarce drukarki drukarek; klawiatura klawiatury klawiaturze klawiatury klawiatur
            maszyna maszyny maszynie maszyny maszyn; strona strony stronie strony stron; baza bazy bazie bazy baz
            technologia technologii technologii technologie technologii; kamera kamery kamerze kamery kamer""",
        "fc": "sieć sieci sieci sieci; wiadomość wiadomości wiadomości wiadomości; część części części części",
        "n": """urządzenie urządzenia urządzeniu urządzeniu urządzenia urządzeń; hasło hasła hasłu haśle hasła haseł
            rozwiązanie rozwiązania rozwiązaniu rozwiązaniu rozwiązania rozwiązań
            narzędzie narzędzia narzędziu narzędziu narzędzia narzędzi
            połączenie połączenia połączeniu połączeniu połączenia połączeń""",
        "w": """n biuro biura biuru biurze biura biur; f firma firmy firmie firmy firm
            f fabryka fabryki fabryce fabryki fabryk; f pracownia pracowni pracowni pracownie pracowni""",
        "na": """f uczelnia uczelni uczelni uczelnie uczelni
            f konferencja konferencji konferencji konferencje konferencji""",
        "adjectives": """cyfrowy cyfrowi; nowoczesny nowocześni; elektryczny elektryczni; szybki szybcy
            mobilny mobilni
            bezpieczny bezpieczni; otwarty otwarci; automatyczny automatyczni; zdalny zdalni; wydajny wydajni""",
        "ipf": """projektować projektuje projektują; testować testuje testują; naprawiać naprawia naprawiają
            ulepszać ulepsza ulepszają; sprzedawać sprzedaje sprzedają; instalować instaluje instalują""",
        "pf": """zaprojektować zaprojektuje zaprojektują; naprawić naprawi naprawią; ulepszyć ulepszy ulepszą
            uruchomić uruchomi uruchomią; sprzedać sprzeda sprzedadzą; wyłączyć wyłączy wyłączą""",
    },
    "travel": {
        "m1": """podróżnik podróżnika podróżnikowi podróżniku podróżnicy podróżników
            przewodnik przewodnika przewodnikowi przewodniku przewodnicy przewodników
            pasażer pasażera pasażerowi pasażerze pasażerowie pasażerów
            pilot pilota pilotowi pilocie piloci pilotów""",
        "ma": "turysta turysty turyście turyści turystów; kierowca kierowcy kierowcy kierowcy kierowców",
        "f1": """turystka turystki turystce turystki turystek
            podróżniczka podróżniczki podróżniczce podróżniczki podróżniczek""",
        "m3": """pociąg pociągu pociągowi pociągu pociągi pociągów; bilet biletu biletowi bilecie bilety biletów
            plecak plecaka plecakowi plecaku plecaki plecaków
            paszport paszportu paszportowi paszporcie paszporty paszportów
            samolot samolotu samolotowi samolocie samoloty samolotów; statek statku statkowi statku statki statków
            autobus autobusu autobusowi autobusie autobusy autobusów
            nocleg noclegu noclegowi noclegu noclegi noclegów
            widok widoku widokowi widoku widoki widoków; szlak szlaku szlakowi szlaku szlaki szlaków
            zabytek zabytku zabytkowi zabytku zabytki zabytków; namiot namiotu namiotowi namiocie namioty namiotów""",
        "f": """mapa mapy mapie mapy map; wycieczka wycieczki wycieczce wycieczki wycieczek
            walizka walizki walizce walizki walizek; pamiątka pamiątki pamiątce pamiątki pamiątek
            przygoda przygody przygodzie przygody przygód; granica granicy granicy granice granic
            pocztówka pocztówki pocztówce pocztówki pocztówek; góra góry górze góry gór""",
        "fc": "podróż podróży podróże podróży",
        "n": """zdjęcie zdjęcia zdjęciu zdjęciu zdjęcia zdjęć; miejsce miejsca miejscu miejscu miejsca miejsc
            wybrzeże wybrzeża wybrzeżu wybrzeżu wybrzeża wybrzeży
            wspomnienie wspomnienia wspomnieniu wspomnieniu wspomnienia wspomnień""",
        "w": """m3 hotel hotelu hotelowi hotelu hotele hoteli; f dolina doliny dolinie doliny dolin
            n schronisko schroniska schronisku schronisku schroniska schronisk""",
        "na": """m3 dworzec dworca dworcowi dworcu dworce dworców; m3 peron peronu peronowi peronie perony peronów
            n lotnisko lotniska lotnisku lotnisku lotniska lotnisk; f plaża plaży plaży plaże plaż""",
        "adjectives": """daleki dalecy; egzotyczny egzotyczni; górski górscy; morski morscy; letni letni
            zagraniczny zagraniczni
            wygodny wygodni; wspólny wspólni; nocny nocni; turystyczny turystyczni""",
        "ipf": """zwiedzać zwiedza zwiedzają; planować planuje planują; fotografować fotografuje fotografują
            wspominać wspomina wspominają; rezerwować rezerwuje rezerwują; odwiedzać odwiedza odwiedzają""",
        "pf": """zwiedzić zwiedzi zwiedzą; zaplanować zaplanuje zaplanują; zarezerwować zarezerwuje zarezerwują
            odwiedzić odwiedzi odwiedzą; zgubić zgubi zgubią; sfotografować sfotografuje sfotografują""",
    },
    "law": {
        "m1": """adwokat adwokata adwokatowi adwokacie adwokaci adwokatów
            prawnik prawnika prawnikowi prawniku prawnicy prawników
            urzędnik urzędnika urzędnikowi urzędniku urzędnicy urzędników
            świadek świadka świadkowi świadku świadkowie świadków
            notariusz notariusza notariuszowi notariuszu notariusze notariuszy
            obywatel obywatela obywatelowi obywatelu obywatele obywateli
            prokurator prokuratora prokuratorowi prokuratorze prokuratorzy prokuratorów
            poseł posła posłowi pośle posłowie posłów""",
        "f1": """prawniczka prawniczki prawniczce prawniczki prawniczek
            urzędniczka urzędniczki urzędniczce urzędniczki urzędniczek
            klientka klientki klientce klientki klientek""",
        "m3": """wyrok wyroku wyrokowi wyroku wyroki wyroków; przepis przepisu przepisowi przepisie przepisy przepisów
            wniosek wniosku wnioskowi wniosku wnioski wniosków; podatek podatku podatkowi podatku podatki podatków
            kodeks kodeksu kodeksowi kodeksie kodeksy kodeksów
            artykuł artykułu artykułowi artykule artykuły artykułów
            dowód dowodu dowodowi dowodzie dowody dowodów
            obowiązek obowiązku obowiązkowi obowiązku obowiązki obowiązków
            paragraf paragrafu paragrafowi paragrafie paragrafy paragrafów
            termin terminu terminowi terminie terminy terminów
            podpis podpisu podpisowi podpisie podpisy podpisów""",
        "f": """ustawa ustawy ustawie ustawy ustaw; umowa umowy umowie umowy umów; kara kary karze kary kar
            sprawa sprawy sprawie sprawy spraw; skarga skargi skardze skargi skarg
            decyzja decyzji decyzji decyzje decyzji
            opinia opinii opinii opinie opinii; opłata opłaty opłacie opłaty opłat
            zasada zasady zasadzie zasady zasad
            zmiana zmiany zmianie zmiany zmian; konstytucja konstytucji konstytucji konstytucje konstytucji""",
        "fc": "własność własności własności własności; odpowiedź odpowiedzi odpowiedzi odpowiedzi",
        "n": """prawo prawa prawu prawie prawa praw; pismo pisma pismu piśmie pisma pism
            rozporządzenie rozporządzenia rozporządzeniu rozporządzeniu rozporządzenia rozporządzeń
            orzeczenie orzeczenia orzeczeniu orzeczeniu orzeczenia orzeczeń
            zeznanie zeznania zeznaniu zeznaniu zeznania zeznań
            postępowanie postępowania postępowaniu postępowaniu postępowania postępowań""",
        "w": """m3 sąd sądu sądowi sądzie sądy sądów; m3 urząd urzędu urzędowi urzędzie urzędy urzędów
            f kancelaria kancelarii kancelarii kancelarie kancelarii
            n ministerstwo ministerstwa ministerstwu ministerstwie ministerstwa ministerstw""",
        "na": """f rozprawa rozprawy rozprawie rozprawy rozpraw
            n posiedzenie posiedzenia posiedzeniu posiedzeniu posiedzenia posiedzeń""",
        "adjectives": """prawny prawni; ostateczny ostateczni; sądowy sądowi; karny karni; publiczny publiczni
            jawny jawni
            sprawiedliwy sprawiedliwi; pisemny pisemni; obowiązujący obowiązujący; urzędowy urzędowi""",
        "ipf": """analizować analizuje analizują; wyjaśniać wyjaśnia wyjaśniają; kwestionować kwestionuje kwestionują
            stosować stosuje stosują; komentować komentuje komentują; przedstawiać przedstawia przedstawiają""",
        "pf": """przedstawić przedstawi przedstawią; wyjaśnić wyjaśni wyjaśnią
            zakwestionować zakwestionuje zakwestionują
            przyjąć przyjmie przyjmą; odrzucić odrzuci odrzucą; uzasadnić uzasadni uzasadnią""",
    },
    "health": {
        "m1": """lekarz lekarza lekarzowi lekarzu lekarze lekarzy
            pacjent pacjenta pacjentowi pacjencie pacjenci pacjentów
            chirurg chirurga chirurgowi chirurgu chirurdzy chirurgów
            ratownik ratownika ratownikowi ratowniku ratownicy ratowników
            dietetyk dietetyka dietetykowi dietetyku dietetycy dietetyków""",
        "ma": "dentysta dentysty dentyście dentyści dentystów",
        "f1": """lekarka lekarki lekarce lekarki lekarek
            pielęgniarka pielęgniarki pielęgniarce pielęgniarki pielęgniarek
            pacjentka pacjentki pacjentce pacjentki pacjentek""",
        "m3": """lek leku lekowi leku leki leków; zabieg zabiegu zabiegowi zabiegu zabiegi zabiegów
            ból bólu bólowi bólu bóle bólów; objaw objawu objawowi objawie objawy objawów; sen snu snowi śnie sny snów
            posiłek posiłku posiłkowi posiłku posiłki posiłków; spacer spaceru spacerowi spacerze spacery spacerów
            organizm organizmu organizmowi organizmie organizmy organizmów
            wynik wyniku wynikowi wyniku wyniki wyników""",
        "f": """choroba choroby chorobie choroby chorób; dieta diety diecie diety diet; rana rany ranie rany ran
            szczepionka szczepionki szczepionce szczepionki szczepionek; operacja operacji operacji operacje operacji
            recepta recepty recepcie recepty recept; witamina witaminy witaminie witaminy witamin
            terapia terapii terapii terapie terapii; gorączka gorączki gorączce gorączki gorączek
            metoda metody metodzie metody metod; porada porady poradzie porady porad
            wizyta wizyty wizycie wizyty wizyt""",
        "fc": "odporność odporności odporności odporności",
        "n": """badanie badania badaniu badaniu badania badań
            zalecenie zalecenia zaleceniu zaleceniu zalecenia zaleceń
            serce serca sercu sercu serca serc; lekarstwo lekarstwa lekarstwu lekarstwie lekarstwa lekarstw
            ciśnienie ciśnienia ciśnieniu ciśnieniu ciśnienia ciśnień""",
        "w": """m3 szpital szpitala szpitalowi szpitalu szpitale szpitali
            f przychodnia przychodni przychodni przychodnie przychodni
            f apteka apteki aptece apteki aptek; m3 gabinet gabinetu gabinetowi gabinecie gabinety gabinetów""",
        "na": """m3 oddział oddziału oddziałowi oddziale oddziały oddziałów
            m3 dyżur dyżuru dyżurowi dyżurze dyżury dyżurów""",
        "adjectives": """zdrowy zdrowi; chory chorzy; silny silni; słaby słabi; przewlekły przewlekli; domowy domowi
            medyczny medyczni; regularny regularni; bezpieczny bezpieczni; naturalny naturalni""",
        "ipf": """badać bada badają; stosować stosuje stosują; zalecać zaleca zalecają; przerywać przerywa przerywają
            wyjaśniać wyjaśnia wyjaśniają; monitorować monitoruje monitorują""",
        "pf": """zbadać zbada zbadają; zastosować zastosuje zastosują; zalecić zaleci zalecą
            przerwać przerwie przerwą
            wyjaśnić wyjaśni wyjaśnią; zapisać zapisze zapiszą""",
    },
}
